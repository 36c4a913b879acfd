"""Draws one bird in one scene: 64 px, anti-aliased polygons, about a third of a millisecond.

A bird has its own coordinates: the body's centre is the origin, it faces right (+x), y points down, and it is
about two units long. ``_Pen`` maps those units to pixels.
"""

import math
from typing import Final

import cv2
import numpy as np

from fgvr.demo.scene import HABITATS, Scene
from fgvr.demo.species import COLOUR_ATTRIBUTES, Attributes

SIZE: Final = 64
"""Side of a drawing in pixels."""

PALETTE: Final[dict[str, tuple[int, int, int]]] = {
    "azure": (46, 104, 208),
    "crimson": (200, 36, 48),
    "golden": (238, 196, 40),
    "olive": (92, 126, 40),
    "slate": (122, 132, 146),
    "rufous": (158, 88, 42),
    "sable": (34, 32, 36),
    "ivory": (246, 242, 228),
    "orange": (244, 130, 28),
}
"""RGB values of the colour words."""

_SHIFT = 4  # cv2 takes fixed-point coordinates: 1/16 pixel
_ANGLES = np.linspace(0, 2 * math.pi, 20, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
_CAP = np.stack([np.cos(a := np.linspace(math.pi * 1.02, math.pi * 1.98, 10)), np.sin(a)], axis=1)
_HABITAT_COLOURS = np.array(list(HABITATS.values()), dtype=np.float32)
_RAMP = np.linspace(0, 1, SIZE, dtype=np.float32)[:, None]
_PALE = ("ivory", "golden")

Colour = tuple[float, float, float]


class _Pen:
    """Draws shapes given in bird units into a canvas of pixels."""

    def __init__(self, canvas: np.ndarray, scene: Scene) -> None:
        self.canvas = canvas
        cos, sin = math.cos(scene.rotation) * scene.scale, math.sin(scene.rotation) * scene.scale
        turn = np.array([[cos, sin], [-sin, cos]])
        if scene.flip:
            turn[:, 0] *= -1
        self._turn, self._centre, self._unit = turn, np.array(scene.centre), scene.scale

    def _pixels(self, points: np.ndarray) -> np.ndarray:
        fixed: np.ndarray = ((points @ self._turn + self._centre) * (1 << _SHIFT)).astype(np.int32)
        return fixed

    def polygon(self, colour: Colour, points: np.ndarray) -> None:
        cv2.fillPoly(self.canvas, [self._pixels(points)], colour, cv2.LINE_AA, _SHIFT)

    def ellipse(self, colour: Colour, x: float, y: float, rx: float, ry: float, *, tilt: float = 0.0) -> None:
        points = _CIRCLE * (rx, ry)
        if tilt:
            cos, sin = math.cos(tilt), math.sin(tilt)
            points = points @ np.array([[cos, sin], [-sin, cos]])
        self.polygon(colour, points + np.array([x, y]))

    def stroke(self, colour: Colour, points: list[tuple[float, float]], width: float) -> None:
        """A line of constant ``width`` (bird units) through the points."""
        line = self._pixels(np.array(points))
        cv2.polylines(self.canvas, [line], False, colour, max(1, round(width * self._unit)), cv2.LINE_AA, _SHIFT)


def draw(attributes: Attributes, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Draw a bird in a scene; ``rng`` is used for the pixel noise only.

    Returns:
        uint8 [64, 64, 3], RGB.
    """
    canvas = background(scene)
    paint(canvas, attributes, scene)
    _branch(canvas, scene)
    return lit(canvas, scene, rng)


def paint(canvas: np.ndarray, attributes: Attributes, scene: Scene) -> None:
    """Draw a bird on a canvas (uint8 [H, W, 3]); what lies outside is cut off."""
    pen = _Pen(canvas, scene)
    colours = _part_colours(attributes, scene)
    _legs_and_tail(pen, attributes, colours)
    _body(pen, attributes, colours)
    _head(pen, attributes, colours, scene.neck)


def lit(canvas: np.ndarray, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The canvas with the scene's light and pixel noise: uint8 [H, W, 3]."""
    light = np.array(scene.cast, dtype=np.float32) * scene.gain
    pixels = canvas * light + rng.standard_normal(canvas.shape, dtype=np.float32) * scene.noise
    image: np.ndarray = np.clip(pixels, 0, 255).astype(np.uint8)
    return image


def _part_colours(attributes: Attributes, scene: Scene) -> dict[str, Colour]:
    colours: dict[str, Colour] = {}
    for part, tint in zip(COLOUR_ATTRIBUTES, scene.tint.tolist(), strict=True):
        red, green, blue = PALETTE[getattr(attributes, part)]
        colours[part] = (red + tint[0], green + tint[1], blue + tint[2])
    return colours


def background(scene: Scene) -> np.ndarray:
    """The scene without bird, light and noise: uint8 [64, 64, 3]."""
    top, bottom = _HABITAT_COLOURS[scene.habitat]
    column = top + (bottom - top) * _RAMP
    canvas = np.repeat(column[:, None, :], SIZE, axis=1).astype(np.uint8)
    mean = (top + bottom) / 2
    for x, y, rx, ry, brightness in scene.backdrop.tolist():
        colour = tuple((mean + brightness).tolist())
        cv2.ellipse(canvas, (int(x), int(y)), (int(rx), int(ry)), 0, 0, 360, colour, -1, cv2.LINE_AA)
    return canvas


def _legs_and_tail(pen: _Pen, bird: Attributes, colours: dict[str, Colour]) -> None:
    foot = 0.98 if bird.long_legs else 0.6
    for x in (-0.12, 0.12):
        pen.stroke(colours["legs"], [(x, 0.25), (x, foot), (x + 0.14, foot)], 0.085)
    end = -1.3 if bird.long_tail else -0.86
    outline = [(-0.3, -0.12), (end, -0.17), (end, 0.12), (-0.3, 0.14)]
    if bird.forked_tail:
        outline = [(-0.3, -0.12), (end - 0.04, -0.32), (end + 0.3, -0.02), (end - 0.04, 0.26), (-0.3, 0.14)]
    pen.polygon(colours["tail"], np.array(outline))
    if bird.tail_tip:
        white = PALETTE["ivory"]
        if bird.forked_tail:
            pen.ellipse(white, end, -0.27, 0.12, 0.08)
            pen.ellipse(white, end, 0.21, 0.12, 0.08)
        else:
            pen.polygon(white, np.array([(end, -0.18), (end + 0.17, -0.17), (end + 0.17, 0.12), (end, 0.13)]))


def _body(pen: _Pen, bird: Attributes, colours: dict[str, Colour]) -> None:
    pen.ellipse(colours["body"], 0, 0, 0.56, 0.36, tilt=-0.25)
    pen.ellipse(colours["belly"], 0.1, 0.14, 0.4, 0.2, tilt=-0.3)
    dark = PALETTE["sable"]
    if bird.streaked_belly:
        for x in (-0.16, 0.0, 0.16, 0.32):
            pen.stroke(dark, [(x, 0.1), (x - 0.06, 0.31)], 0.05)
    if bird.spotted_breast:
        for x, y in ((0.32, -0.1), (0.46, 0.0), (0.3, 0.06), (0.44, 0.14)):
            pen.ellipse(dark, x, y, 0.05, 0.05)
    pen.polygon(
        colours["wings"],
        np.array([(0.22, -0.2), (0.14, 0.08), (-0.2, 0.16), (-0.7, 0.06), (-0.4, -0.16), (-0.1, -0.28)]),
    )
    if bird.wing_bar:
        for x in (-0.02, -0.22):
            pen.stroke(PALETTE["ivory"], [(x, -0.24), (x - 0.1, 0.13)], 0.08)


def _head(pen: _Pen, bird: Attributes, colours: dict[str, Colour], neck: tuple[float, float]) -> None:
    x, y = 0.5 + neck[0], -0.46 + neck[1]
    white, dark = PALETTE["ivory"], PALETTE["sable"]
    pale = bird.body in _PALE
    if bird.crest:
        pen.polygon(colours["crown"], np.array([(x + 0.1, y - 0.2), (x - 0.42, y - 0.5), (x - 0.2, y - 0.02)]))
    _beak(pen, bird, colours["beak"], x, y)
    pen.polygon(colours["body"], np.array([(x - 0.24, y), (x + 0.2, y + 0.1), (0.44, 0.05), (0.0, -0.2)]))
    pen.ellipse(colours["body"], x, y, 0.29, 0.28)
    pen.polygon(colours["crown"], _CAP * (0.29, 0.28) + (x, y - 0.05))
    if bird.bib:
        pen.polygon(
            dark,
            np.array([(x + 0.26, y + 0.1), (x + 0.02, y + 0.16), (x + 0.02, y + 0.42), (x + 0.12, y + 0.42)]),
        )
    if bird.collar:
        pen.stroke(dark if pale else white, [(x - 0.36, y + 0.16), (x - 0.12, y + 0.34), (x + 0.14, y + 0.36)], 0.1)
    if bird.cheek_patch:
        pen.ellipse(PALETTE["crimson"] if pale else white, x - 0.1, y + 0.13, 0.11, 0.09)
    if bird.mask:
        pen.stroke(dark, [(x - 0.26, y + 0.02), (x + 0.26, y + 0.02)], 0.15)
    if bird.eye_ring:
        pen.ellipse(PALETTE["crimson"] if pale else white, x + 0.1, y, 0.13, 0.13)
    pen.ellipse(dark, x + 0.1, y, 0.055, 0.055)
    if bird.mask:
        pen.ellipse(white, x + 0.11, y, 0.03, 0.03)


def _beak(pen: _Pen, bird: Attributes, colour: Colour, x: float, y: float) -> None:
    tip = x + (0.82 if bird.long_beak else 0.5)
    if bird.curved_beak:
        points = [
            (x + 0.2, y - 0.1),
            (x + 0.4, y - 0.08),
            (tip, y + 0.3),
            (x + 0.36, y + 0.1),
            (x + 0.2, y + 0.12),
        ]
    else:
        points = [(x + 0.2, y - 0.12), (tip, y + 0.03), (x + 0.2, y + 0.14)]
    pen.polygon(colour, np.array(points))


def _branch(canvas: np.ndarray, scene: Scene) -> None:
    if scene.branch is None:
        return
    x, y, angle, width = scene.branch
    dx, dy = 60 * math.cos(angle), 60 * math.sin(angle)
    colour = tuple((_HABITAT_COLOURS[scene.habitat, 1] * 0.6).tolist())
    ends = (int(x - dx), int(y - dy)), (int(x + dx * 0.1), int(y + dy * 0.1))
    cv2.line(canvas, *ends, colour, max(1, round(width)), cv2.LINE_AA)
