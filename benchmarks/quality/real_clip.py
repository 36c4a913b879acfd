"""Real CLIP vectors with a real model's answers: the data of the benchmarks of selection, heads and beliefs.

The folder `real-clip` of $FGVR_DATA or ../shared/data holds CLIP ViT-B/32 vectors of the official test photos of
Flowers-102, DTD and Caltech-101, and the five names that GPT-4V gave to each, best first (a closed list).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks import harness
from fgvr.arrays import Ids

FOLDER: Final = harness.DATA / "real-clip"
SETS: Final = {"Flowers": "oxford_flowers", "DTD": "dtd", "Caltech": "caltech101"}
"""Title → file without its ending."""


@dataclass(frozen=True)
class RealPhotos:
    """A data set, its photos in random order.

    Attributes:
        vectors: of length 1, float16 [N, d].
        truth: true name, int64 [N], numbers in `names`.
        answers: what GPT-4V said, best first, int64 [N, 5], numbers in `names`; `NONE` in unused positions.
        names: all names; the first `classes` of them are the true ones.
        classes: C, the number of true names.
    """

    vectors: npt.NDArray[np.float16]
    truth: Ids
    answers: Ids
    names: list[str]
    classes: int


def check_folder(folder: Path = FOLDER) -> None:
    """End with a sentence where a data set is not there."""
    missing = [file for file in SETS.values() if not (folder / f"{file}.npz").is_file()]
    if missing:
        raise SystemExit(f"{folder}: no {', '.join(missing)}; set FGVR_DATA to the folder that holds real-clip")


def read(name: str, seed: int, folder: Path = FOLDER) -> RealPhotos:
    """A data set, by the name of its file; the files are sorted by class, so photos are shuffled by the seed."""
    with np.load(folder / f"{name}.npz", allow_pickle=False) as stored:
        order = np.random.default_rng(seed).permutation(len(stored["class_id"]))
        return RealPhotos(
            stored["vectors"][order],
            stored["class_id"][order].astype(np.int64),
            stored["answers"][order].astype(np.int64),
            stored["names"].tolist(),
            int(stored["classes"]),
        )
