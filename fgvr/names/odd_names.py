"""The names of a label space at a glance: the most frequent ones, and signs that a model did not know what it saw."""

from __future__ import annotations

import re
from typing import Final

from fgvr.names.label_space import LabelSpace

SHOWN: Final = 10
EXAMPLES: Final = 3
FEWEST: Final = 10
"""Names below which nothing is said of how many photos each has."""
_REPEATED: Final = re.compile(r"(\w{5,})\1|\b(\w{4,})\s+\2\b", re.IGNORECASE)
"""BeardedBearded, Slate Slate; not beriberi or ylang-ylang, which are words."""


def often(space: LabelSpace) -> str:
    """The ten most frequent names with their counts, in one line."""
    order = sorted(zip(space.counts, space.labels, strict=True), key=lambda pair: (-pair[0], pair[1]))
    listed = ", ".join(f"{name} ({count:,})" for count, name in order[:SHOWN])
    count = len(space.labels)
    if not count:
        return "no names"
    return f"{count:,} names: {listed}" if count <= SHOWN else f"the most frequent of {count:,} names: {listed}"


def odd_remarks(space: LabelSpace) -> tuple[str, ...]:
    """What a person should look at before anything is built on these names."""
    count, once = len(space.labels), sum(number == 1 for number in space.counts)
    said = []
    if count >= FEWEST and once > count / 2:
        said.append(
            f"{once:,} of {count:,} names occur once: the model may not know these photos, or they are of too many "
            "kinds for so few answers (label.images.max_images)"
        )
    repeated = [name for name in space.labels if _REPEATED.search(name)]
    if repeated:
        listed = ", ".join(repr(name[:60]) for name in repeated[:EXAMPLES])
        said.append(
            f"{len(repeated):,} of {count:,} names repeat a word, as a model does that is lost: {listed}; drop or mend "
            "them in aliases.csv or on the review page"
        )
    return tuple(said)
