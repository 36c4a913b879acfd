"""Which images methods are compared on, and the comparison of their predicted names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fgvr.metrics.label_space import agreement_matrix
from fgvr.metrics.scores import METRICS, MethodScores, score
from fgvr.names.merging import NameEncoder
from fgvr.schemas import Reason
from fgvr.tables import rows_among


@dataclass(frozen=True)
class MethodResult:
    """One method on the evaluation images; `scores` is None where no truth is known."""

    images: int
    unnamed: int
    names: int
    scores: MethodScores | None = None

    def as_json(self) -> dict[str, Any]:
        """The metrics side by side with the counts; null where there is no truth."""
        if self.scores is None:
            return {**dict.fromkeys(METRICS), **asdict(self)}
        return asdict(self.scores)


UNLABELLED_IMAGES = 1000
"""Without truth, methods are only compared with each other; more images would cost MLLM calls and tell no more."""


IMAGE_FAILURES = (
    Reason.NOT_FOUND,
    Reason.UNREADABLE,
    Reason.NOT_ALLOWED,
    Reason.EMPTY_FILE,
    Reason.TOO_MANY_BYTES,
    Reason.TOO_MANY_PIXELS,
    Reason.CORRUPT,
    Reason.NOT_AN_IMAGE,
)
"""Failure reasons that lie in the image itself, so that every method fails on it."""


def readable(labels: pa.Table) -> pa.Table:
    """Rows of a labels table whose image could be read; its columns must include `error`.

    If few images are evaluated, a few damaged photos could exceed run.max_error_share and stop a run at its very end,
    because of failures that all its stages have already counted.
    """
    reasons = pc.struct_field(labels["error"], "reason")
    damaged = pc.is_in(reasons, pa.array([reason.value for reason in IMAGE_FAILURES]))
    return labels.filter(pc.invert(damaged))


@dataclass(frozen=True)
class EvaluationImages:
    """The images for which every method predicts a name.

    Attributes:
        ids: int64 [n], ascending.
        split: the split that they belong to.
        trained_on: there was no such split, so discovery images are used instead.
    """

    ids: npt.NDArray[np.int64]
    split: str
    trained_on: bool


def choose_images(
    samples: pa.Table | Iterable[pa.Table],
    discovery: npt.NDArray[np.int64],
    *,
    split: str,
    max_images: int | None,
    seed: int,
) -> EvaluationImages:
    """The images of `split`; if there are none, the discovery images, which the MLLM has labelled already.

    Args:
        samples: columns image_id, split, class_name; a table, or its parts, of which one at a time is held in memory.
        discovery: int64 [m], ids that the MLLM labelled.
        split: evaluation split.
        max_images: size of a random sample; None: all, but at most UNLABELLED_IMAGES if no class is known.
        seed: seed of the sample.
    """
    named = np.sort(np.asarray(discovery, dtype=np.int64))
    parts = [np.zeros(0, np.int64)]
    splits: set[str] = set()
    labelled = False
    for rows in [samples] if isinstance(samples, pa.Table) else samples:
        of_split = rows.filter(pc.equal(rows["split"], split))
        parts.append(of_split["image_id"].to_numpy())
        labelled = labelled or of_split["class_name"].null_count < of_split.num_rows
        splits.update(pc.unique(rows_among(rows, named)["split"]).to_pylist())
    ids = np.concatenate(parts)
    trained_on = not len(ids)
    if trained_on:
        ids, labelled = named, True  # no further MLLM calls
        split = " and ".join(sorted(splits))
    limit = max_images if max_images is not None else (None if labelled else UNLABELLED_IMAGES)
    if limit is not None and limit < len(ids):
        ids = np.sort(np.random.default_rng(seed).choice(ids, size=limit, replace=False))
    return EvaluationImages(ids, split, trained_on)


@dataclass(frozen=True)
class Comparison:
    """Methods side by side; `agreement` is [M, M] in the order of `methods`."""

    methods: dict[str, MethodResult]
    agreement: list[list[float]]
    scored: int
    classes: int


def compare(
    predicted: Mapping[str, Sequence[str]],
    true: Sequence[str | None],
    load_encoder: Callable[[], NameEncoder],
    *,
    hyphen_to_space: bool,
    resamples: int,
    seed: int,
) -> Comparison:
    """Score each method's names on the images whose class is known, and measure the methods' agreement on all images.

    Args:
        predicted: method → one name per image, "" if it failed or abstained.
        true: one true class name per image; None or "" if unknown.
        load_encoder: loads Sentence-BERT for sACC; called only if there is truth.
        hyphen_to_space: option of sIoU.
        resamples: bootstrap resamples.
        seed: seed of the resamples.
    """
    known = [place for place, name in enumerate(true) if name]
    truth = [name for name in true if name]
    encoder = load_encoder() if known else None
    methods = {}
    for method, names in predicted.items():
        scores = None
        if encoder is not None:
            scores = score(
                [names[place] for place in known],
                truth,
                encoder,
                hyphen_to_space=hyphen_to_space,
                resamples=resamples,
                seed=seed,
            )
        methods[method] = MethodResult(
            images=len(names),
            unnamed=sum(not name for name in names),
            names=len(set(names) - {""}),
            scores=scores,
        )
    agreement = agreement_matrix(dict(predicted)).tolist()
    return Comparison(methods, agreement, scored=len(known), classes=len(set(truth)))


def names_of(predictions: pa.Table, ids: npt.NDArray[np.int64]) -> list[str]:
    """One name per id in `ids` from a predictions or labels table; "" if it failed, abstained or is missing.

    Equal names share one string object: 8 bytes per image.
    """
    own = predictions["image_id"].to_numpy()
    order = np.argsort(own, kind="stable")
    places = np.searchsorted(own[order], ids, side="right") - 1
    there = places >= 0
    rows = order[places * there] if len(own) else places
    there &= own[rows] == ids if len(own) else False
    names = strings(predictions["label"])
    if "abstained" in predictions.column_names:
        names[predictions["abstained"].fill_null(False).to_numpy()] = None
    return [name or "" for name in np.where(there, names[rows], "").tolist()] if len(own) else [""] * len(ids)


def strings(column: pa.ChunkedArray) -> npt.NDArray[np.object_]:
    """A text column as objects [N], None for null; equal texts share one string object."""
    encoded = column.cast(pa.string()).dictionary_encode().unify_dictionaries()
    found = [np.zeros(0, dtype=object)]
    words: npt.NDArray[np.object_] | None = None
    for chunk in encoded.chunks:
        if words is None:  # all chunks share one dictionary
            words = np.array([*chunk.dictionary.to_pylist(), None], dtype=object)
        found.append(words[chunk.indices.fill_null(len(words) - 1).to_numpy(zero_copy_only=False)])
    return np.concatenate(found)
