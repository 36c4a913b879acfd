"""Inference: any trained model on any samples, loaded from its folder; one row of predictions per image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fgvr import schemas
from fgvr.arrays import NONE
from fgvr.config import ImageLimits
from fgvr.images.read import ImageError
from fgvr.metadata.stored import columns_of
from fgvr.models.base import MODEL_FILE, ImageClassifier, ModelFolderError, Outputs, Texts, read_model_file
from fgvr.prefetch import read_ahead
from fgvr.schemas import Failure
from fgvr.storage import fetch_folder

if TYPE_CHECKING:
    import torch

    from fgvr.heads.costs import CostFile, Costs
    from fgvr.hierarchy.decisions import Place, TreeCosts, TreeRule
    from fgvr.precision import Precision

# Loading any trained model: a folder in, a classifier of its kind out.


def load_classifier(
    folder: Path, device: str | torch.device = "cpu", begun: Precision | None = None
) -> ImageClassifier:
    """The model in a local folder, loaded on `device` (for URLs see `fgvr.storage.fetch_folder`).

    Args:
        folder: the model's folder.
        device: where it computes.
        begun: precision of the table's workers (`fgvr.precision.held`); None: there is no table.

    Raises:
        ModelFolderError: there is no model, its files are damaged, or its kind is unknown.
        PrecisionError: the table was begun in a precision that this device does not support.
    """
    kind = read_model_file(folder)["kind"]
    if kind == "student":
        from fgvr.models.student import StudentClassifier

        return StudentClassifier.load(folder, device, begun)
    if kind == "near":
        from fgvr.models.near import NearClassifier

        return NearClassifier.load(folder, device, begun)
    if kind == "head":
        from fgvr.models.head import HeadClassifier

        return HeadClassifier.load(folder, device, begun)
    raise ModelFolderError(f"{folder / MODEL_FILE}: kind {kind!r} is unknown; there are: head, near, student")


# infer: any trained model on any samples, one row of predictions per image.
#
# Threads prefetch and prepare images a few batches ahead of the model. They keep only the model's inputs: a batch of
# decoded photos may take gigabytes, a batch of inputs megabytes.

TOP = 5
READING = 2
"""Version of how an image file becomes a model's input. Increase it when the same file would give other pixels: it is
part of the tables' fingerprints, so that no table mixes predictions of both."""
Row = dict[str, Any]


@dataclass(frozen=True)
class InferSettings:
    """What the workers of infer need; picklable.

    Attributes:
        model: URI of a model folder.
        limits: limits on reading an image.
        abstain_below: predictions with a lower score are marked as abstained.
        batch_images: most images per forward pass (`fgvr.forward_pass`).
        device: where the model runs; None: a GPU if there is one.
        threads: threads that read and prepare images.
        begun: precision that the table's first worker settled on; see `fgvr.precision.held`.
        costs: what mistakes cost, by a file or in a tree of kinds; None: the most probable name is said.
        energy: whether rows have the energy of the logits, from models that have logits.
    """

    model: str
    limits: ImageLimits
    abstain_below: float = 0.0
    batch_images: int = 64
    device: str | None = None
    threads: int = 4
    begun: Precision | None = None
    costs: CostFile | TreeRule | None = None
    energy: bool = False


class InferWorker:
    """The PartWorker of infer; see fgvr.part_worker.PartWorker."""

    def __init__(self, settings: InferSettings) -> None:
        import torch  # here, since the process that drives a job reads this module, too

        self.settings = settings
        device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.classifier: ImageClassifier = load_classifier(fetch_folder(settings.model), device, settings.begun)
        self.costs = costs_of(settings.costs, self.classifier.labels)

    def process(self, rows: pa.Table) -> pa.Table:
        """Predictions for rows with `image_id` and `uri`; images that cannot be read become rows with `error`.

        Where the model sees columns, they are read from `metadata`; what an image lacks counts as missing.
        """
        ids, uris = rows["image_id"].to_pylist(), rows["uri"].to_pylist()
        size = self.settings.batch_images
        texts = columns_of(rows, self.classifier.columns)
        predicted: list[Row] = []
        waiting: list[tuple[int, torch.Tensor]] = []
        images = read_ahead(self._prepared, uris, threads=self.settings.threads, ahead=2 * size)
        for place, (image_id, image) in enumerate(zip(ids, images, strict=True)):
            if isinstance(image, Failure):
                predicted.append({"image_id": image_id, "error": image.as_row()})
                continue
            waiting.append((place, image))
            if len(waiting) == size:
                predicted += self._predict(waiting, ids, texts)
                waiting = []
        if waiting:
            predicted += self._predict(waiting, ids, texts)
        return pa.Table.from_pylist(
            predicted, schema=predictions_schema(self.settings.costs, energy=self.settings.energy)
        )

    def _prepared(self, uri: str) -> torch.Tensor | Failure:
        try:
            return self.classifier.read(uri, self.settings.limits)
        except ImageError as error:
            return error.failure

    def _predict(self, images: Sequence[tuple[int, torch.Tensor]], ids: Sequence[int], texts: Texts) -> list[Row]:
        import torch

        places = [place for place, _ in images]
        mine = {name: column.take(pa.array(places)) for name, column in texts.items()}
        prepared = torch.stack([image for _, image in images])
        outputs = self.classifier.predict_with(prepared, mine) if mine else self.classifier.predict(prepared)
        named = [ids[place] for place in places]
        return prediction_rows(named, outputs, self.classifier.labels, self.settings.abstain_below, self.costs)


def costs_of(rule: CostFile | TreeRule | None, labels: Sequence[str]) -> Costs | TreeCosts | None:
    """The costs of a model's labels, None where there are none.

    Raises:
        CostsError: the file is one of other labels.
        KindsError: the tree is one of other labels.
    """
    if rule is None:
        return None
    from fgvr.heads.costs import CostFile, Costs

    return Costs.of(rule, labels) if isinstance(rule, CostFile) else rule.of(labels)


def predictions_schema(rule: CostFile | TreeRule | None, *, energy: bool = False) -> pa.Schema:
    """The columns of predictions under these costs, with the energy of the logits where it is wanted."""
    from fgvr.heads.costs import CostFile

    plain = rule is None or isinstance(rule, CostFile)
    schema = schemas.PREDICTIONS if plain else schemas.PREDICTIONS_BY_LEVEL
    return schema.append(schemas.ENERGY) if energy else schema


def prediction_rows(
    ids: Sequence[int],
    outputs: Outputs,
    labels: Sequence[str],
    abstain_below: float,
    costs: Costs | TreeCosts | None = None,
) -> list[Row]:
    """Rows of the predictions table: the best label, its score, and the five most probable labels.

    Args:
        ids: image ids of the N rows of `outputs`.
        outputs: the model's outputs.
        labels: names of the model's classes.
        abstain_below: a row whose label has a lower score keeps it and is marked as abstained.
        costs: of mistakes; the label then is the one with the least expected cost, which need not be the most probable
            one, and where saying nothing is cheaper the row is marked as abstained. In a tree of kinds the answer may
            be one of these: `schemas.PREDICTIONS_BY_LEVEL`.
    """
    best = _highest(outputs.scores, TOP)
    scores = np.take_along_axis(outputs.scores, best, axis=1)
    said, silent = best[:, 0], np.zeros(len(best), bool)
    places: list[Place] | None = None
    if costs is not None:
        said, silent, places = _decided(costs, outputs.scores)
    own = np.take_along_axis(outputs.scores, said[:, None], axis=1)[:, 0]
    rows: list[Row] = [
        {
            "image_id": image_id,
            "label": labels[said[row]],
            "label_id": int(said[row]),
            "score": float(own[row]),
            "top_labels": [labels[label_id] for label_id in best[row]],
            "top_scores": scores[row].tolist(),
            "abstained": bool(silent[row] or own[row] < abstain_below),
            "p_yes": None if outputs.p_yes is None else outputs.p_yes[row].tolist(),
            "error": None,
        }
        for row, image_id in enumerate(ids)
    ]
    if outputs.energy is not None:
        for one, value in zip(rows, outputs.energy.tolist(), strict=True):
            one["energy"] = value
    for row, place in enumerate(places or ()):
        rows[row]["level"] = place.level
        if place.above_labels:
            rows[row] |= {"label": place.name, "label_id": None}
        if place.mass is not None:
            rows[row] |= {"score": place.mass, "abstained": bool(silent[row] or place.mass < abstain_below)}
    return rows


def _decided(
    costs: Costs | TreeCosts, scores: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_], list[Place] | None]:
    """Of each image the label that is said, or the most probable one; whether nothing is; and where it is in a tree."""
    from fgvr.heads.costs import Costs

    if isinstance(costs, Costs):
        said, _, silent = costs.decide(scores)
        return said, silent, None
    answers = costs.answers(scores)
    said = np.where(answers.labels == NONE, scores.argmax(axis=1), answers.labels)
    return said, costs.silent(answers), costs.places(answers)


def _highest(scores: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.int64]:
    """Columns of each row's highest scores, int64 [N, min(count, C)]: highest first; among equals the lower column.

    Whole rows are not sorted: for 20,000 labels that takes ten times as long, and longer than the model's own product.
    """
    count = min(count, scores.shape[1])
    falling = -scores
    limits = np.partition(falling, count - 1, axis=1)[:, count - 1]
    best = np.empty((len(scores), count), np.int64)
    for row, (values, limit) in enumerate(zip(falling, limits, strict=True)):
        among = np.flatnonzero(~(values > limit))  # includes NaN, which both partition and sort put last
        best[row] = among[np.argsort(values[among], kind="stable")[:count]]
    return best
