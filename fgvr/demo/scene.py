"""The incidental parts of a photo: pose, position, light, background and what stands in front of the bird."""

from dataclasses import dataclass
from typing import Final

import numpy as np

HABITATS: Final[dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]]] = {
    "sky": ((196, 222, 246), (226, 238, 250)),
    "forest": ((112, 158, 96), (146, 182, 116)),
    "desert": ((226, 200, 150), (238, 218, 176)),
    "marsh": ((150, 172, 160), (126, 160, 170)),
    "dusk": ((206, 160, 170), (226, 178, 160)),
    "snow": ((236, 238, 242), (216, 222, 232)),
}
"""Background colours (RGB) per habitat: top and bottom of the image."""


@dataclass(frozen=True)
class Scene:
    """Everything about a drawing that does not depend on the bird. Lengths are in pixels of the 64 px image."""

    habitat: int
    flip: bool
    centre: tuple[float, float]
    scale: float
    rotation: float
    """Radians."""
    neck: tuple[float, float]
    """Shift of the head in bird units."""
    gain: float
    """Brightness factor."""
    cast: tuple[float, float, float]
    """Colour factors (RGB) of the light."""
    noise: float
    """Standard deviation of the pixel noise in grey levels."""
    tint: np.ndarray
    """Grey levels added to the colour of each coloured part: float [7, 3]."""
    backdrop: np.ndarray
    """Blobs of the background, one per row (x, y, radius x, radius y, brightness): float [5, 5]."""
    branch: tuple[float, float, float, float] | None
    """A stroke that hides part of the bird (x, y, angle, width); None: no stroke."""


def sample_scene(rng: np.random.Generator, difficulty: float) -> Scene:
    """Draw a random scene; every deviation from a plain studio picture grows with ``difficulty`` (0: none, 1: mild)."""
    d = difficulty
    jitter = rng.uniform(-1, 1, 12)
    backdrop = rng.uniform(0, 1, (5, 5)) * (64, 64, 14, 10, 36) + (0, 0, 3, 3, -18)
    hidden = rng.uniform() < min(0.3 * d, 0.8)
    branch = rng.uniform(0, 1, 4)
    return Scene(
        habitat=int(rng.integers(len(HABITATS))),
        flip=bool(rng.integers(2)),
        centre=(32 + 2.5 * d * jitter[0], 33 + 2.5 * d * jitter[1]),
        scale=float(21.5 * max(0.35, 1 + (0.11 * jitter[2] - 0.04) * d)),
        rotation=float(0.16 * d * jitter[3]),
        neck=(0.05 * d * jitter[4], 0.05 * d * jitter[5]),
        gain=float(max(0.3, 1 + 0.12 * d * jitter[6])),
        cast=(1 + 0.05 * d * jitter[7], 1 + 0.05 * d * jitter[8], 1 + 0.05 * d * jitter[9]),
        noise=float(4 * d * (1 + 0.5 * jitter[10])),
        tint=rng.uniform(-9, 9, (7, 3)) * d,
        backdrop=backdrop,
        branch=(12 + 40 * branch[0], 16 + 36 * branch[1], np.pi * branch[2], 2 + 1.5 * d * branch[3])
        if hidden
        else None,
    )
