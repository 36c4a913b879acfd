"""How a config names a model: `demo`, a folder, a hub name, or an architecture whose weights another field names."""

from __future__ import annotations

import os
from typing import Final

DEMO_MODEL: Final = "demo"
LOCAL: Final = "local-dir:"
HUB: Final = "hf-hub:"


def in_folder(name: str) -> bool:
    """Whether a model is named by the folder that holds it, local or in an object store."""
    place = name.removeprefix(LOCAL)
    by_form = name.startswith((LOCAL, "/", ".", "~", "file:")) or "://" in place
    return by_form or os.path.isdir(place)  # noqa: PTH112  # no error, whatever the name


def brings_weights(name: str) -> bool:
    """Whether open_clip's or timm's name of a model determines its weights, so that no other field can name them."""
    return name.startswith(HUB) or in_folder(name)
