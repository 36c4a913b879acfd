"""Teachers of class logits: an earlier student that sees the same crops, or precomputed scores of the images.

A teacher is stored in a folder beside the run that it teaches: a model folder, or `scores.npy`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from fgvr import storage
from fgvr.array_files import open_array, save_blocks
from fgvr.config import ConfigError
from fgvr.models.student import StudentSpec, load_student
from fgvr.precision import autocast

SCORES_FILE = "scores.npy"
NAMED = 5  # class names in a message
BLOCK_BYTES = 2**25
"""Bytes of scores that are scanned at a time."""

Positions = npt.NDArray[np.int64]


class Teacher(Protocol):
    """Gives class logits for training images."""

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """For which examples it has logits, bool [N]."""
        ...

    def logits(self, pixels: Tensor, positions: Positions) -> Tensor:
        """Class logits, float32 [n, C] in the order of the student's classes, without a gradient.

        Args:
            pixels: the student's crops, uint8 [n, S, S, 3].
            positions: int64 [n], the images' positions in the examples.
        """
        ...


class StudentTeacher:
    """A trained student; it sees the student's crop in its own input size and normalisation."""

    def __init__(
        self, spec: StudentSpec, model: nn.Module, labels: Sequence[str], examples: int, *, low_precision: bool = False
    ) -> None:
        """Arguments as in `open_teacher`; raises ConfigError if the classes differ."""
        self.spec, self.model = spec, model.eval().requires_grad_(False)
        self.low_precision = low_precision
        self.known = np.ones(examples, dtype=bool)
        device = next(model.parameters()).device
        self._order = torch.from_numpy(class_order(spec.labels, labels)).to(device)

    @torch.no_grad()
    def logits(self, pixels: Tensor, positions: Positions) -> Tensor:
        """See Teacher."""
        side = self.spec.preprocess.input_size
        if pixels.shape[1] != side:
            planes = pixels.permute(0, 3, 1, 2).float()
            resized = functional.interpolate(planes, size=(side, side), mode="bilinear", antialias=True)
            pixels = resized.permute(0, 2, 3, 1)
        inputs = self.spec.preprocess.normalise(pixels)
        with autocast(pixels.device, "bf16" if self.low_precision else "fp32"):
            outputs = self.model(inputs)
        return self.spec.split(outputs.float())[0][:, self._order]


class ScoreTeacher:
    """Precomputed scores per image and class, whatever the crop.

    They may be memory-mapped, since those of millions of images and a thousand classes are larger than memory: only a
    batch's rows are copied.
    """

    def __init__(self, scores: npt.NDArray[np.float32], device: torch.device) -> None:
        """`scores`: float32 [N, C], not finite in the rows of images without scores."""
        self.known = _finite_rows(scores)
        self._scores, self._device = scores, device

    def logits(self, pixels: Tensor, positions: Positions) -> Tensor:
        """See Teacher; zeros for images without scores."""
        rows = np.where(self.known[positions, None], self._scores[positions], np.float32(0))
        return torch.from_numpy(rows).to(self._device)


def open_teacher(
    folder: str, labels: Sequence[str], examples: int, device: torch.device, *, low_precision: bool = False
) -> Teacher:
    """The teacher in a folder (a URI).

    Args:
        folder: written by `put_scores` or `fgvr.models.student.save_student`.
        labels: the student's classes.
        examples: N, the number of examples.
        device: where it computes.
        low_precision: a student teacher computes in bf16, like the student that it teaches.

    Raises:
        ConfigError: the teacher is a student with other classes.
        ModelFolderError: the model is damaged.
    """
    if storage.exists(storage.join(folder, SCORES_FILE)):
        scores = open_array(storage.fetch_folder(folder) / SCORES_FILE)
        if scores.shape != (examples, len(labels)):
            raise ValueError(f"teacher scores {scores.shape} do not fit {examples} examples of {len(labels)} classes")
        return ScoreTeacher(scores, device)
    spec, model = load_student(storage.fetch_folder(folder), device)
    return StudentTeacher(spec, model, labels, examples, low_precision=low_precision)


def put_scores(folder: str, blocks: Iterable[npt.NDArray[np.float32]], examples: int, classes: int) -> None:
    """Write a ScoreTeacher's folder, block by block.

    Args:
        folder: URI.
        blocks: float32 [n, C]; their concatenated rows are the scores.
        examples: N, the sum of the blocks' n.
        classes: C.
    """

    def checked() -> Iterator[npt.NDArray[np.float32]]:
        rows = 0
        for block in blocks:
            if block.shape[1:] != (classes,):
                raise ValueError(f"teacher scores {block.shape} are not of {classes} classes")
            yield block
            rows += len(block)
        if rows != examples:
            raise ValueError(f"teacher scores of {rows} images, not of {examples}")

    save_blocks(storage.join(folder, SCORES_FILE), "<f4", (examples, classes), checked())


def _finite_rows(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Rows without nan and infinity, bool [N]; computed in blocks."""
    step = max(1, BLOCK_BYTES // max(1, scores.shape[1] * scores.itemsize))
    finite = np.zeros(len(scores), dtype=bool)
    for start in range(0, len(scores), step):
        finite[start : start + step] = np.isfinite(scores[start : start + step]).all(axis=1)
    return finite


def class_order(teacher: Sequence[str], student: Sequence[str]) -> npt.NDArray[np.int64]:
    """Indices of the student's classes among the teacher's outputs, int64 [C]; classes are matched by name.

    Raises:
        ConfigError: one has classes that the other lacks, or the same name twice in another order.
    """
    if tuple(teacher) == tuple(student):
        return np.arange(len(student))
    places = {name: place for place, name in enumerate(teacher)}
    unknown = [name for name in student if name not in places]
    spare = sorted(places.keys() - set(student))
    if unknown or spare or len(places) != len(teacher) or len(teacher) != len(student):
        parts = [
            _listed("the student's classes that it does not know", unknown),
            _listed("its classes that the student does not learn", spare),
        ]
        differences = "; ".join(part for part in parts if part) or "a name stands for several classes"
        raise ConfigError(
            f"makd.distillation.teacher: it has {len(teacher)} classes, the student {len(student)}, and they differ: "
            f"{differences}. Train a teacher on these classes"
        )
    return np.array([places[name] for name in student], dtype=np.int64)


def _listed(what: str, names: Sequence[Any]) -> str:
    shown = ", ".join(repr(name) for name in names[:NAMED]) + (" …" if len(names) > NAMED else "")
    return f"{len(names)} of {what} ({shown})" if names else ""
