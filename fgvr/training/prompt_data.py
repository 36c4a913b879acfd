"""The data, state and results of prompt learning.

It reads one worker's share of cached image features and candidate sets. A checkpoint holds `state.pt` (context,
optimiser, candidate weights of all images, counters) and `history.json`; the last one also `model/`
(fgvr.models.near.NearModel) and `weights.npy` (the disambiguated weights, float32 [N, K] in the order of the images
with candidates).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fgvr.arrays import NONE, Ids
from fgvr.candidates.sets import read_sets
from fgvr.clip.vectors import read_vectors
from fgvr.config import Clip, Near
from fgvr.errors import UserError
from fgvr.models.near import NearModel
from fgvr.names.label_space import read_label_space
from fgvr.tables import Table
from fgvr.training.checkpoint import STATE_FILE, History, read_history, write_history
from fgvr.training.reporter import share

WEIGHTS_FILE, MODEL_FOLDER = "weights.npy", "model"


class NearTrainingError(UserError, ValueError):
    """Prompts cannot be learned from these tables; the message says why."""


@dataclass(frozen=True)
class NearJob:
    """Inputs of a training run; picklable, sent to each worker.

    Attributes:
        settings: the recipe.
        clip: the model whose prompts are learned.
        labels: folder of the labels table.
        embeddings: folder of the embeddings table.
        candidates: folder of the candidates table.
        views: folder of the table of augmented views; None: plain embeddings only.
    """

    settings: Near
    clip: Clip
    labels: str
    embeddings: str
    candidates: str
    views: str | None = None


@dataclass(frozen=True)
class NearData:
    """The images with candidates; a worker holds the rows `first` … `first` + n − 1, all on its device.

    Attributes:
        names: the label space, C names.
        total: number of images over all workers.
        first: position of the worker's first image.
        features: fp16 [n, V, d]: the plain embedding, then augmented views, L2-normalised.
        label_ids: candidates int64 [n, K]; `NONE` in unused positions. K is the same for all workers.
        weights: initial weights float32 [n, K].
        own: the MLLM's own label int64 [n]; `NONE` if it failed.
    """

    names: tuple[str, ...]
    total: int
    first: int
    features: Tensor
    label_ids: Tensor
    weights: Tensor
    own: Tensor

    def __len__(self) -> int:
        """Number of this worker's images."""
        return len(self.features)

    def to(self, device: torch.device) -> NearData:
        """A copy on a device."""
        tensors = (self.features, self.label_ids, self.weights, self.own)
        features, label_ids, weights, own = (tensor.to(device) for tensor in tensors)
        return NearData(self.names, self.total, self.first, features, label_ids, weights, own)


def read_near_data(job: NearJob, rank: int, world_size: int) -> NearData:
    """Read one worker's share.

    Raises:
        NearTrainingError: no image has candidates, there are fewer images or names than workers, or a vector contains
            NaN.
    """
    labels, candidates = Table.load(job.labels), Table.load(job.candidates)
    space = read_label_space(labels)
    rows = candidates.read(["image_id", "label_ids", "weights"])
    sets = read_sets(rows)
    positions = np.flatnonzero(sets.sizes > 0)
    if min(len(positions), len(space.labels)) < world_size:
        raise NearTrainingError(
            f"near: {len(positions)} images have candidates and the label space has {len(space.labels)} names: too few "
            f"for {world_size} workers; look at the failures of the stages label and embed"
        )
    here = share(len(positions), rank, world_size)
    mine = positions[here]
    ids = rows["image_id"].to_numpy()[mine]
    return NearData(
        names=space.labels,
        total=len(positions),
        first=here.start,
        features=torch.from_numpy(_features(job, ids)),
        label_ids=torch.from_numpy(sets.label_ids[mine].astype(np.int64)),
        weights=torch.from_numpy(sets.weights[mine]),
        own=torch.from_numpy(_own_labels(labels, ids)),
    )


def _features(job: NearJob, ids: Ids) -> npt.NDArray[np.float16]:
    """fp16 [n, V, d]; an image whose views failed gets its plain embedding instead."""
    plain, found = read_vectors(Table.load(job.embeddings), ids)
    if not found.all():
        missing = ids[~found]
        raise NearTrainingError(f"near: {len(missing)} images have candidates but no vector, the first is {missing[0]}")
    _check_finite(plain, ids, "embeddings")
    if job.views is None:
        return plain[:, None]
    views, seen = read_vectors(Table.load(job.views), ids)
    _check_finite(views, ids, "views")
    stacked = views.reshape(len(ids), -1, plain.shape[1])
    stacked = np.where(seen[:, None, None], stacked, plain[:, None])
    return np.concatenate([plain[:, None], stacked], axis=1)


def _check_finite(vectors: npt.NDArray[np.float16], ids: Ids, table: str) -> None:
    """The embed stage turns such vectors into failed rows, so a table with one is damaged or made elsewhere."""
    broken = ids[~np.isfinite(vectors).all(axis=1)]
    if len(broken):
        raise NearTrainingError(
            f"near: the vectors of {len(broken)} images in the table {table} are no numbers (NaN or infinite), the "
            f"first is image {broken[0]}; delete the table's folder, and the stage computes it again"
        )


def _own_labels(labels: Table, ids: Ids) -> npt.NDArray[np.int64]:
    rows = labels.read(["image_id", "label_id"])
    known = rows["image_id"].to_numpy()
    own = rows["label_id"].fill_null(NONE).to_numpy().astype(np.int64)
    at = np.minimum(np.searchsorted(known, ids), max(len(known) - 1, 0))
    return np.where(known[at] == ids, own[at], NONE) if len(known) else np.full(len(ids), NONE, np.int64)


@dataclass
class NearState:
    """The state of a training run, and its best context so far.

    Attributes:
        context: the context when the state was loaded; the learner's own copy is trained further.
        step: number of steps made.
        best_context: the context with the lowest held-out loss; None before the first validation.
        best_loss: its held-out loss.
        held_out_loss: held-out loss of the last epoch; None if nothing is held out.
        history: reported metrics.
    """

    context: Tensor
    step: int = 0
    best_context: Tensor | None = None
    best_loss: float = math.inf
    held_out_loss: float | None = None
    history: History = field(default_factory=list)

    @classmethod
    def start(cls, context: Tensor) -> NearState:
        """The state before the first step."""
        return cls(context.detach().clone())

    def validated(self, loss: float, context: Tensor) -> None:
        """Record an epoch's held-out loss; the context is kept if it is the best."""
        self.held_out_loss = loss
        if loss < self.best_loss:
            self.best_loss, self.best_context = loss, context.detach().clone()

    def chosen(self, last: Tensor) -> Tensor:
        """The context that was best on held-out images, else the last."""
        return last if self.best_context is None else self.best_context.to(last.device)

    def save(
        self,
        folder: Path,
        context: Tensor,
        optimiser: torch.optim.Optimizer,
        weights: Tensor,
        refinement: Mapping[str, Any],
    ) -> None:
        """Write a checkpoint into an empty folder.

        Args:
            folder: the folder.
            context: the learner's context.
            optimiser: its optimiser.
            weights: candidate weights of all images, [N, K].
            refinement: what the loss keeps beside them (`fgvr.training.prompt_refinement`).
        """
        content = {
            "context": context.detach().cpu(),
            "optimiser": optimiser.state_dict(),
            "weights": weights.cpu(),
            "step": self.step,
            "best_context": None if self.best_context is None else self.best_context.cpu(),
            "best_loss": self.best_loss,
            "held_out_loss": self.held_out_loss,
            "refinement": dict(refinement),
        }
        torch.save(content, folder / STATE_FILE)
        write_history(folder, self.history)

    @classmethod
    def load(cls, folder: Path, optimiser: torch.optim.Optimizer) -> tuple[NearState, Tensor, Mapping[str, Any]]:
        """The state in a checkpoint, the candidate weights of all images, and what the loss keeps beside them.

        Also restores the optimiser.
        """
        content = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
        optimiser.load_state_dict(content["optimiser"])
        state = cls(
            context=content["context"],
            step=content["step"],
            best_context=content["best_context"],
            best_loss=content["best_loss"],
            held_out_loss=content["held_out_loss"],
            history=read_history(folder),
        )
        return state, content["weights"], content.get("refinement", {})  # earlier versions had none


@dataclass(frozen=True)
class Outcome:
    """Result of a finished run: the model, and the disambiguated weights float32 [N, K]."""

    model: NearModel
    weights: Tensor

    def save(self, folder: Path) -> None:
        """Write both into the folder of the last checkpoint."""
        self.model.save(folder / MODEL_FOLDER)
        np.save(folder / WEIGHTS_FILE, self.weights.numpy())


def read_weights(folder: Path) -> npt.NDArray[np.float32]:
    """The disambiguated weights in the folder of a last checkpoint."""
    return np.asarray(np.load(folder / WEIGHTS_FILE), dtype=np.float32)
