"""Tiny MLLMs that single rows ask instead of the config's: the naming models know one prompt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fgvr.errors import UserError

DEMO_FOLDER: Final = Path("~/.cache/fgvr/demo")
LISTING: Final = "list"
"""The name of a listing model's folder, and of the rows that ask it (`Row.asks`)."""


@dataclass(frozen=True)
class OwnModel:
    """A checkpoint, and the command that trains it."""

    folder: Path
    command: str

    def tree(self) -> dict[str, Any]:
        """What is laid over the config; raises UserError where the model has not been trained."""
        if not self.folder.exists():
            raise UserError(f"there is no model at {self.folder}; train it: {self.command}")
        return {"mllm": {"model": str(self.folder)}}


def grocery_models(models: Path) -> dict[str, OwnModel]:
    """By method or `Row.asks`; `models` is the folder of the grocery benchmark's."""
    asked = OwnModel(models / "vqa", f"python benchmarks/grocery_models.py --model vqa --out {models}")
    command = f"python benchmarks/listing_models.py --config grocery --models {models} --out {models}"
    return {"finer": asked, "findr": asked, LISTING: OwnModel(models / LISTING, command)}


def demo_models(folder: Path = DEMO_FOLDER) -> dict[str, OwnModel]:
    """By `Row.asks`, for the shipped MLLM of the field guide."""
    command = "python benchmarks/listing_models.py --config demo"
    return {LISTING: OwnModel(folder.expanduser() / LISTING, command)}
