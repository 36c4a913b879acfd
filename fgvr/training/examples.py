"""A student's training images with everything it learns of them, in files that all workers of a machine map."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from fgvr import storage
from fgvr.training.aspect_answers import Answers, AspectAnswers
from fgvr.training.uris import MappedUris, write_uris

IDS, CLASSES, HELD_OUT, URIS = "image_ids.npy", "classes.npy", "held_out.npy", "uris.arrow"
ANSWERED, ANSWERS = "answered.npy", "answers.npy"
FACTS = "examples.json"


@dataclass(frozen=True)
class Examples:
    """N images with their targets.

    Attributes:
        image_ids: int64 [N].
        uris: where the images are.
        classes: int64 [N], class targets; −1: none (only the aspects are learned).
        p_yes: float32 [N, Q], p(yes) in 0 … 1; nan where the MLLM gave none, which the loss leaves out.
        held_out: bool [N]: validates instead of training.
        identity: what decides the images' content, see `fgvr.training.image_store`.
    """

    image_ids: npt.NDArray[np.int64]
    uris: Sequence[str]
    classes: npt.NDArray[np.int64]
    p_yes: Answers | AspectAnswers
    held_out: npt.NDArray[np.bool_]
    identity: str

    def __post_init__(self) -> None:
        sizes = {len(self.image_ids), len(self.uris), len(self.classes), len(self.p_yes), len(self.held_out)}
        if len(sizes) != 1 or self.p_yes.ndim != 2:
            raise ValueError(f"examples of different lengths: {sorted(sizes)}")
        for rows, values in self.answers.blocks():
            wrong = ~np.isnan(values) & ~((values >= 0) & (values <= 1))
            if wrong.any():
                row, question = np.argwhere(wrong)[0]
                raise ValueError(
                    f"p(yes) of image {self.image_ids[rows[row]]}, question {question}: "
                    f"{values[row, question]} is not in 0 … 1"
                )

    def __len__(self) -> int:
        return len(self.image_ids)

    @cached_property
    def answers(self) -> AspectAnswers:
        """`p_yes` of the images that have answers."""
        return AspectAnswers.of(self.p_yes)

    def first_aspects(self, count: int) -> Examples:
        """The same for a student with `count` aspect outputs, the questions of the lowest ranks; 0: without aspects.

        Raises ValueError where fewer questions were asked.
        """
        if count > self.p_yes.shape[1]:
            raise ValueError(f"a student of {count} questions on examples with answers to {self.p_yes.shape[1]}")
        first = self.answers.first(count)
        return Examples(self.image_ids, self.uris, self.classes, first, self.held_out, self.identity)

    def write(self, uri: str) -> None:
        """As a folder of files that can be mapped into memory; no more than a block of URIs or answers is held."""
        answers = self.answers
        for name, array in ((IDS, self.image_ids), (CLASSES, self.classes), (HELD_OUT, self.held_out)):
            _save(storage.join(uri, name), array)
        with storage.new_file(storage.join(uri, URIS)) as file:
            write_uris(file, self.uris)
        _save(storage.join(uri, ANSWERED), answers.rows)
        facts = {"descr": "<f2", "fortran_order": False, "shape": (len(answers.rows), answers.shape[1])}
        with storage.new_file(storage.join(uri, ANSWERS)) as file:
            write_header: Any = np.lib.format.write_array_header_1_0
            write_header(file, facts)
            for _, values in answers.blocks():
                file.write(np.ascontiguousarray(values, dtype="<f2").data)
        storage.write_bytes(storage.join(uri, FACTS), json.dumps({"identity": self.identity}).encode())

    @classmethod
    def read(cls, uri: str) -> Examples:
        """As `write` left them, mapped from the disk; p(yes) has gone through fp16 (steps of 5e-4 at most)."""
        folder = storage.fetch_folder(uri)
        ids, classes, held_out, answered, values = (
            np.load(folder / name, mmap_mode="r", allow_pickle=False)
            for name in (IDS, CLASSES, HELD_OUT, ANSWERED, ANSWERS)
        )
        return cls(
            image_ids=ids,
            uris=MappedUris(str(folder / URIS)),
            classes=classes,
            p_yes=AspectAnswers(len(ids), answered, values),
            held_out=held_out,
            identity=json.loads((folder / FACTS).read_bytes())["identity"],
        )


def _save(uri: str, array: npt.NDArray[Any]) -> None:
    with storage.new_file(uri) as file:
        np.save(file, array, allow_pickle=False)
