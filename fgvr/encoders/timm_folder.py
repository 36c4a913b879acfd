"""A model's folder as timm saves it: `config.json`, which names the architecture and its input, beside the weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fgvr.errors import UserError

CONFIG_FILE: Final = "config.json"
WEIGHTS: Final = ("model.safetensors", "pytorch_model.bin")
"""Names under which timm saves weights, the one to prefer first."""
ENDINGS: Final = (".safetensors", ".pth", ".pt", ".bin")
"""Names of files of weights end so."""
_INPUT = ("input_size", "fixed_input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std", "num_classes")


class TimmFolderError(UserError, ValueError):
    """A folder is none that timm saves; the message says why, and callers add the config field."""


@dataclass(frozen=True)
class TimmFolder:
    """What a folder holds.

    Attributes:
        architecture: timm's name, perhaps with a tag.
        weights: the file of weights.
        data: what is said of the model's input (mean, std, input size …).
        model_args: further arguments of `timm.create_model`.
    """

    architecture: str
    weights: Path
    data: dict[str, Any]
    model_args: dict[str, Any]


def read_timm_folder(folder: Path) -> TimmFolder:
    """Read `config.json` and find the weights.

    Raises:
        TimmFolderError: one of the two is missing, or the file does not say which architecture it is about.
    """
    facts = read_timm_config(folder / CONFIG_FILE)
    # Files of earlier versions of timm have these facts at the top.
    data = facts.get("pretrained_cfg", facts)
    weights = next((folder / each for each in WEIGHTS if (folder / each).is_file()), None)
    if weights is None:
        raise TimmFolderError(f"{folder} holds no weights ({' or '.join(WEIGHTS)})")
    return TimmFolder(facts["architecture"], weights, input_facts(data), dict(facts.get("model_args") or {}))


def read_timm_config(place: Path) -> dict[str, Any]:
    """The content of a `config.json` that names an architecture; raises TimmFolderError."""
    try:
        facts = json.loads(place.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TimmFolderError(f"{place.parent} has no {place.name}; expected a folder as timm saves it") from None
    except ValueError as error:
        raise TimmFolderError(f"{place} is not JSON: {error}") from None
    if not isinstance(facts, dict) or not isinstance(facts.get("architecture"), str):
        raise TimmFolderError(f"{place} names no `architecture`, which timm's files do")
    return facts


def input_facts(data: dict[str, Any]) -> dict[str, Any]:
    """What a `pretrained_cfg` says of the model's input, sequences as tuples."""
    facts = {name: data[name] for name in _INPUT if data.get(name) is not None}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()}
