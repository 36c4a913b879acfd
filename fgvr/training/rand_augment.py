"""RandAugment: a few random operations on each crop, of one strength (Cubuk et al., NeurIPS 2020).

The operations are timm's (`timm.data.auto_augment`, "rand-mM-nN-inc1": those whose effect grows with the magnitude),
each of the N drawn ones applied with probability one half. timm draws from global generators, which neither threads nor
resumed runs could share: here all draws are numbers that the caller gives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from timm.data.auto_augment import NAME_TO_OP

Pixels = npt.NDArray[np.uint8]
PROBABILITY = 0.5
"""How often a drawn operation is applied (timm's default)."""
DRAWS = 3
"""Numbers per operation: which, whether, and in which direction."""
_DEGREES, _SHEAR, _SHIFT, _ENHANCE = 30.0, 0.3, 0.45, 0.9
_LEAST = 0.1


def _arguments(kind: str, level: float, sign: float) -> tuple[float, ...]:
    """Arguments of timm's function for a level of 0 … 1, by the kind of operation (`LEVEL_TO_ARG`)."""
    made: dict[str, Callable[[], tuple[float, ...]]] = {
        "plain": tuple,
        "turn": lambda: (sign * level * _DEGREES,),
        "shear": lambda: (sign * level * _SHEAR,),
        "shift": lambda: (sign * level * _SHIFT,),
        "enhance": lambda: (max(_LEAST, 1 + sign * level * _ENHANCE),),
        # One bit at least: Pillow refuses none, which timm asks for at the largest magnitude, and black says nothing.
        "bits": lambda: (max(1, 4 - int(level * 4)),),
        "threshold": lambda: (256 - min(256, int(level * 256)),),
        "add": lambda: (min(128, int(level * 110)),),
    }
    return made[kind]()


OPERATIONS: dict[str, str] = {
    "AutoContrast": "plain",
    "Equalize": "plain",
    "Invert": "plain",
    "Rotate": "turn",
    "PosterizeIncreasing": "bits",
    "SolarizeIncreasing": "threshold",
    "SolarizeAdd": "add",
    "ColorIncreasing": "enhance",
    "ContrastIncreasing": "enhance",
    "BrightnessIncreasing": "enhance",
    "SharpnessIncreasing": "enhance",
    "ShearX": "shear",
    "ShearY": "shear",
    "TranslateXRel": "shift",
    "TranslateYRel": "shift",
}
"""timm's names in its order → the kind of their argument."""


@dataclass(frozen=True)
class RandAugment:
    """Settings of RandAugment.

    Attributes:
        operations: N, number of operations that are drawn for a crop, with repetition.
        magnitude: M, 0 … 10.
        fill: colour of pixels that come from outside of the crop.
    """

    operations: int
    magnitude: float
    fill: tuple[int, int, int] = (128, 128, 128)

    def __call__(self, crop: Pixels, draw: npt.NDArray[np.float64]) -> Pixels:
        """A crop, uint8 [H, W, 3], changed by the operations that `draw`, uniform in 0 … 1 [N, 3], stands for."""
        image, names = Image.fromarray(crop), list(OPERATIONS)
        more: dict[str, Any] = {"fillcolor": self.fill, "resample": Image.Resampling.BILINEAR}
        for which, whether, direction in draw:
            if whether > PROBABILITY:
                continue
            name = names[min(int(which * len(names)), len(names) - 1)]
            sign = -1.0 if direction > 0.5 else 1.0
            image = NAME_TO_OP[name](image, *_arguments(OPERATIONS[name], self.magnitude / 10, sign), **more)
        return np.asarray(image, dtype=np.uint8)
