"""Arrays in .npy files that workers memory-map: written whole, or block by block where they are larger than memory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fgvr import storage


def save_array(uri: str, array: npt.NDArray[Any]) -> None:
    """Write an array as one file."""
    with storage.new_file(uri) as file:
        np.save(file, array, allow_pickle=False)


def save_blocks(uri: str, dtype: str, shape: tuple[int, ...], blocks: Iterable[npt.NDArray[Any]]) -> None:
    """Write an array whose rows come block by block; what `blocks` raises leaves no file.

    Args:
        uri: of the file.
        dtype: numpy's code of its type, such as "<f2".
        shape: of the whole array, which the blocks fill.
        blocks: its rows in order.
    """
    with storage.new_file(uri) as file:
        write_header: Any = np.lib.format.write_array_header_1_0
        write_header(file, {"descr": dtype, "fortran_order": False, "shape": shape})
        for block in blocks:
            file.write(np.ascontiguousarray(block, dtype=dtype).data)


def open_array(file: Path) -> npt.NDArray[Any]:
    """Memory-map an array's file."""
    array: npt.NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    return array
