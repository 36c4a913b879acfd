"""The rows of the NeaR paper's tables, and our own rows: a method, and its changes of the config."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.papers.data_sets import LISTING


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        label: how it is printed.
        method: its name in `evaluate.methods`.
        changes: config tree laid over the table's own.
        published: key of the paper's numbers for this row in near_published.yaml; "" where the paper has none.
        asks: name of the data set's own model (`data_sets.py`) that this row asks; "": that of its method, if any.
    """

    label: str
    method: str
    changes: dict[str, Any] = field(default_factory=dict)
    published: str = ""
    asks: str = ""


def _near(label: str, /, *, published: str = "", asks: str = "", **changes: dict[str, Any]) -> Row:
    return Row(label, "near", changes, published, asks)


NEAR: Final = _near("NeaR", published="near")
RANDOM: Final = _near("NeaR, Random-CS", candidates={"method": "random"}, published="random")
MLLM: Final = Row("MLLM, each image", "mllm", published="mllm")
ZERO_SHOT: Final = Row("ZS-CLIP, MLLM's names", "zs_clip", published="zs_clip")

_BASELINES: Final = (
    MLLM,
    Row("CaSED", "cased", published="cased"),
    Row("FineR", "finer", published="finer"),
    Row("FiNDR-style", "findr"),
    Row("ZS-CLIP-WordNet", "zs_wordnet", published="zs_wordnet"),
    ZERO_SHOT,
    Row("0.7 text + 0.3 image", "prototypes"),
)

_KEPT: Final = {"frozen_epochs": 100_000}
"""Candidate weights that are never updated."""

_OURS: Final = (
    NEAR,
    _near("CE on the single label", candidates={"method": "single"}, near={"loss": "ce"}),
    _near("NeaR, weights kept", near=_KEPT),
    _near("NeaR, one context per name", near={"class_specific": True}),
    # Weights that say what a vote is worth must be kept, not learned again.
    _near("NeaR, adaptive sets, weights kept", candidates={"method": "adaptive"}, near=_KEPT),
    *(_near(f"NeaR, {loss.upper()}", near={"loss": loss}) for loss in ("cc", "rc", "lws", "cavl", "gce")),
)


def _asked(select: str, images: int) -> tuple[Row, ...]:
    """NeaR and prototypes on so many answers, about images of the field guide that are drawn or chosen."""
    label = {"images": {"select": select, "per_class": None, "max_images": images}}
    title = f"{images} answers, {select}"
    return (
        _near(f"NeaR, {title}", label=label),
        Row(f"Prototypes, {title}", "label_prototypes", {"label": label}),
    )


TABLES: Final[dict[str, tuple[Row, ...]]] = {
    "1": (*_BASELINES, NEAR),
    "2": (*_BASELINES, NEAR),
    "3": (RANDOM, NEAR),
    "4": (
        _near(
            "MLLM-CS, 3 listed",
            candidates={"method": "mllm"},
            label={"listed": 3},
            published="listed",
            asks=LISTING,
        ),
        _near("MLLM-CS, 3 sampled", candidates={"method": "mllm"}, label={"samples": 3, "temperature": 1.0}),
        NEAR,
    ),
    "fig2": (ZERO_SHOT, Row("FineR", "finer"), _OURS[1], NEAR),
    "ours": _OURS,
    "asked": (
        NEAR,
        *(row for images in (108, 360) for select in ("random", "medoids") for row in _asked(select, images)),
    ),
}
"""Rows by table, in the paper's order; `ours` and `asked` are rows that it does not have."""
