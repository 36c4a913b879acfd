"""What photos looked like in training: the vectors that were learned from, and the scores of photos that were not.

One file, `reference.npz`, which a later run reads beside the model (`infer.drift.reference`).
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from fgvr.arrays import Doubles
from fgvr.drift.scores import Learned
from fgvr.errors import UserError
from fgvr.selection.whitening import Whitening

FORMAT: Final = 1
LEAST_PHOTOS: Final = 20
"""Reference photos below which nothing can be said: of 20, none beyond the threshold happens by chance too often."""
MOST_LEARNED: Final = 20_000
"""Training vectors that are kept, drawn at random: more bring neighbours nearer, to reference photos and new ones."""


class DriftError(UserError, ValueError):
    """Photos cannot be compared with those of training."""


@dataclass(frozen=True)
class Reference:
    """The state of training.

    Attributes:
        bank: vectors of photos that were learned from, float16 [M, d].
        whitening: of these vectors; None where there are none.
        distance: of the reference photos to the bank, float64 [m]; NaN without a vector.
        doubt: their energies, or unsureness where the model has no logits, float64 [m]; NaN without a prediction.
        names: how many of them are predicted to have each name.
        k: which nearest neighbour `distance` is of.
        has_energy: whether `doubt` is an energy.
        model: identity of the model's files (`pipelines.infer.identity_of`).
        encoder: identity of the encoder, as manifests of embeddings state it.
    """

    bank: npt.NDArray[np.float16]
    whitening: Whitening | None
    distance: Doubles
    doubt: Doubles
    names: Mapping[str, int]
    k: int
    has_energy: bool
    model: str
    encoder: Mapping[str, Any]

    def __len__(self) -> int:
        """Number of reference photos."""
        return len(self.distance)

    def learned(self, threads: int = 1) -> Learned:
        """The photos that were learned from, to measure distances to."""
        return Learned(self.bank, self.whitening, threads)

    def check(self) -> None:
        """Raise DriftError where too few photos are known."""
        scored = int(np.isfinite(self.distance).sum())
        if not len(self.bank):
            raise DriftError(
                "drift_reference: no photo that the model learned from has a vector; embed their split (embed.splits)"
            )
        if scored < LEAST_PHOTOS:
            raise DriftError(
                f"drift_reference: {scored} photos of the training split were not learned from and have a vector, and "
                f"{LEAST_PHOTOS} are needed; raise makd.validation_share, learn from fewer images "
                "(label.images.max_images, makd.images), or embed all images of that split (embed.images: all)"
            )

    def to_bytes(self) -> bytes:
        """The file."""
        facts = {
            "format": FORMAT,
            "k": self.k,
            "has_energy": self.has_energy,
            "model": self.model,
            "encoder": dict(self.encoder),
            "names": dict(self.names),
        }
        text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
        file = io.BytesIO()
        space = np.frombuffer(b"" if self.whitening is None else self.whitening.to_bytes(), np.uint8)
        np.savez_compressed(file, bank=self.bank, whitening=space, distance=self.distance, doubt=self.doubt, facts=text)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, place: str) -> Reference:
        """Read the file; raises DriftError, with its place, where it is none, or damaged."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as stored:
                facts = json.loads(stored["facts"].tobytes())
                bank, distance, doubt = (stored[name] for name in ("bank", "distance", "doubt"))
                space = stored["whitening"].tobytes()
            if facts["format"] != FORMAT or bank.ndim != 2 or distance.shape != doubt.shape or distance.ndim != 1:
                raise _damaged(place, "another format")
            names = {str(name): int(count) for name, count in facts["names"].items()}
            return cls(
                bank.astype(np.float16),
                Whitening.from_bytes(space) if space else None,
                distance.astype(np.float64),
                doubt.astype(np.float64),
                names,
                int(facts["k"]),
                bool(facts["has_energy"]),
                str(facts["model"]),
                dict(facts["encoder"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError, OSError, EOFError, BadZipFile) as error:
            raise _damaged(place, str(error)) from None


def _damaged(place: str, why: str) -> DriftError:
    return DriftError(
        f"{place}: no reference of an earlier run, or damaged ({why}); make it again with pipelines/drift.py in the "
        "run that trained the model"
    )


def counted(names: npt.NDArray[Any] | list[str | None]) -> Counter[str]:
    """Photos per name; photos without one are left out."""
    return Counter(name for name in names if name is not None)
