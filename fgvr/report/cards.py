"""The report's example images: which ones are shown, and what each stage said about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa

from fgvr.arrays import Ids
from fgvr.config.data import ImageLimits
from fgvr.images.places import is_inside, name_of
from fgvr.redact import masked_value
from fgvr.report.page import Candidate, ImageCard, IssueCard, Prediction, UnsureCard
from fgvr.report.pictures import photo
from fgvr.report.take_home import Unsure

Row = dict[str, Any]


def choose_examples(labels: pa.Table, disambiguated: pa.Table, count: int, seed: int) -> Ids:
    """Ids of `count` discovery images: half at random, half among those whose label was changed by training.

    Args:
        labels: columns image_id, label_id.
        disambiguated: columns image_id, label_id.
        count: number of images wanted; fewer if there are fewer.
        seed: seed of the draw.

    Returns:
        int64, ascending.
    """
    ids = labels["image_id"].to_numpy()
    settled = dict(zip(disambiguated["image_id"].to_pylist(), disambiguated["label_id"].to_pylist(), strict=True))
    pairs = zip(labels["image_id"].to_pylist(), labels["label_id"].to_pylist(), strict=True)
    changed = np.array([i for i, label in pairs if settled.get(i) is not None and settled[i] != label], dtype=np.int64)
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(changed)[: count // 2]
    others = rng.permutation(np.setdiff1d(ids, chosen))[: count - len(chosen)]
    return np.sort(np.concatenate([chosen, others]).astype(np.int64))


@dataclass(frozen=True)
class ExampleRows:
    """Rows of the example images from the stages' tables; images missing in a table are shown without its facts.

    Attributes:
        samples: image_id, uri, class_name.
        labels: image_id, raw, label.
        candidates: image_id, label_ids, weights.
        disambiguated: image_id, label_ids, weights.
        predictions: method → image_id, label, score.
    """

    samples: pa.Table
    labels: pa.Table
    candidates: pa.Table
    disambiguated: pa.Table
    predictions: Mapping[str, pa.Table]


def build_cards(rows: ExampleRows, names: Sequence[str], limits: ImageLimits) -> list[ImageCard]:
    """One card per row of `rows.samples`; thumbnails are read by threads.

    Args:
        rows: the rows of the example images.
        names: the label space, by label id.
        limits: limits on reading an image.
    """
    labels, before, after = (_by_id(table) for table in (rows.labels, rows.candidates, rows.disambiguated))
    said = {method: _by_id(table) for method, table in rows.predictions.items()}
    samples = rows.samples.to_pylist()
    with ThreadPoolExecutor(8) as pool:
        pictures = list(pool.map(lambda sample: photo(sample["uri"], limits), samples))
    cards = []
    for sample, (picture, problem) in zip(samples, pictures, strict=True):
        image = sample["image_id"]
        label = labels.get(image, {})
        cards.append(
            ImageCard(
                title=file_name(sample["uri"]),
                thumbnail=picture,
                problem=problem,
                answer=label.get("raw") or "",
                label=label.get("label") or "",
                true_name=sample["class_name"] or "",
                candidates=_candidates(before.get(image), after.get(image), names),
                predictions=[_prediction(method, table.get(image)) for method, table in said.items()],
            )
        )
    return cards


def issue_cards(issues: Sequence[Row], samples: Sequence[Row], limits: ImageLimits) -> list[IssueCard]:
    """One card per label that is probably wrong, in their order; thumbnails are read by threads.

    Args:
        issues: rows of the issues table.
        samples: rows of the samples table about the same images, in the same order.
        limits: limits on reading an image.
    """
    with ThreadPoolExecutor(8) as pool:
        pictures = list(pool.map(lambda sample: photo(sample["uri"], limits), samples))
    return [
        IssueCard(
            title=file_name(sample["uri"]),
            thumbnail=picture,
            problem=problem,
            label=issue["label"],
            true_name=sample["class_name"] or "",
            suggested=issue["suggested"],
            why=issue["why"],
        )
        for issue, sample, (picture, problem) in zip(issues, samples, pictures, strict=True)
    ]


def unsure_cards(unsure: Sequence[Unsure], samples: Sequence[Row], limits: ImageLimits) -> list[UnsureCard]:
    """One card per photo with a low score, in their order; `samples` are the samples' rows in the same order."""
    with ThreadPoolExecutor(8) as pool:
        pictures = list(pool.map(lambda sample: photo(sample["uri"], limits), samples))
    return [
        UnsureCard(
            title=file_name(sample["uri"]),
            thumbnail=picture,
            problem=problem,
            name=each.guess,
            score=each.score,
            abstained=each.abstained,
            true_name=sample["class_name"] or "",
        )
        for each, sample, (picture, problem) in zip(unsure, samples, pictures, strict=True)
    ]


def _by_id(table: pa.Table) -> dict[int, Row]:
    return {row["image_id"]: row for row in table.to_pylist()}


def _candidates(before: Row | None, after: Row | None, names: Sequence[str]) -> list[Candidate]:
    if before is None or not before["label_ids"]:
        return []
    final: dict[int, float] = {}
    if after is not None and after["label_ids"]:
        final = dict(zip(after["label_ids"], after["weights"], strict=True))
    pairs = zip(before["label_ids"], before["weights"], strict=True)
    found = [Candidate(names[label], weight, final.get(label)) for label, weight in pairs]
    return sorted(found, key=lambda candidate: -(candidate.before if candidate.after is None else candidate.after))


def _prediction(method: str, row: Row | None) -> Prediction:
    return Prediction(method, "") if row is None else Prediction(method, row["label"] or "", row["score"])


def file_name(uri: str) -> str:
    """The last part of a URI, shown to people."""
    if is_inside(uri):
        return name_of(uri)
    name = masked_value(uri).rstrip("/").rsplit("/", 1)[-1]  # an end alone does not look like a URL
    return unquote(name, errors="replace") if uri.startswith("file://") else name
