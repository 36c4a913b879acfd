"""Colours of the page against WCAG 2.2: text at least 4.5:1, marks that carry information at least 3:1."""

import re
from pathlib import Path

import pytest

STYLE = (Path(__file__).parents[3] / "fgvr/report/style.html").read_text()
LIGHT, DARK = (dict(re.findall(r"--([\w-]+): (#\w{6});", part)) for part in STYLE.split("@media (prefers")[:2])
DOTS = re.findall(r"\.c\d+ \{ stroke: (#\w{6});", STYLE)


def luminance(colour: str) -> float:
    """Relative luminance, as WCAG 2.2 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_formula():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # the well-known grey that just fails


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_text_and_marks(colours):
    for text in ("ink", "soft", "good", "bad", "bar"):  # links have the colour of bars
        for ground in ("paper", "ground"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for mark in ("bar", "hold", "ink"):
        assert contrast(colours[mark], colours["paper"]) >= 3, mark
    assert len(DOTS) == 10
    for dot in DOTS:
        assert contrast(dot, colours["paper"]) >= 3, dot
