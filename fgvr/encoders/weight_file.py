"""Files of weights: tensors by name, read so that nothing in the file is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fgvr.errors import UserError
from fgvr.hub import PICKLED

PLAIN_FIRST = ("state_dict", "model", "model_state_dict", "state_dict_ema")
AVERAGE_FIRST = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict")
"""Keys under which checkpoints of trainings hold their weights; an average is what timm validates and prefers, too."""

NO_PICKLE = ("Unsupported operand", "invalid load key")
"""Parts of torch's messages about files that are no pickle."""


READ_ERRORS = (
    *(SafetensorError, RuntimeError, EOFError, ValueError, OSError),
    *(AssertionError, AttributeError, IndexError, KeyError, TypeError),
)
"""What the readers raise for damaged files; the second line by torch's reader of its older format."""


class WeightFileError(UserError, ValueError):
    """A file holds no weights; the message says why, and callers add the config field."""


def read_tensors(file: Path, nested: Sequence[str] = PLAIN_FIRST) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU, in the file's order, without the prefix `module.` of several workers.

    Args:
        file: .safetensors, or anything that `torch.save` wrote.
        nested: keys of a checkpoint below which the weights lie; the first that it has counts.

    Raises:
        WeightFileError: the file is empty, or holds something else than tensors.
    """
    if not file.stat().st_size:
        raise WeightFileError(f"{file} is empty: it was probably not written to its end; fetch or save it again")
    try:
        if file.suffix.lower() == ".safetensors":
            found: Any = load_file(file)
        else:
            found = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        # torch refuses what is no pickle at all in the same words as a program.
        if any(words in str(error) for words in NO_PICKLE):
            raise WeightFileError(f"{file}: cannot be read as weights: torch.save did not write it") from error
        raise WeightFileError(f"{file.name}: {PICKLED}") from error
    except READ_ERRORS as error:
        raise WeightFileError(f"{file}: cannot be read as weights: {_first_line(error)}") from error
    inside = next((found[key] for key in nested if isinstance(found, Mapping) and found.get(key) is not None), found)
    if not isinstance(inside, Mapping) or not all(isinstance(value, Tensor) for value in inside.values()):
        raise WeightFileError(f"{file} holds no mapping of names to tensors")
    if not inside:
        raise WeightFileError(f"{file} holds no tensors")
    for name, value in inside.items():
        if value.layout != torch.strided or value.is_nested or value.device.type == "meta":
            raise WeightFileError(f"{file}: {name} is no plain tensor with numbers (sparse, nested or meta)")
    return {str(name).removeprefix("module."): value for name, value in inside.items()}


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
