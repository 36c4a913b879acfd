"""How much memory a GPU has: by the name that Ray gives it, or as this machine's driver says."""

from __future__ import annotations

import os
import re
import subprocess

from fgvr.mllm.memory import GIB

CARDS_GIB = {
    "P4": 8, "T4": 16, "P100": 16, "V100": 16, "L4": 24, "A10G": 24, "A10": 24, "L40S": 48, "A100-40G": 40,
    "A100-80G": 80, "H100": 80, "H20": 96, "H200": 141, "GH200": 96, "B200": 180, "B300": 288,
}  # fmt: skip
"""By `accelerator_type`, as in the makers' data sheets; the smallest where a name covers several, `A100` is either."""
QUESTION_SECONDS = 20.0
_QUESTION = ["--query-gpu=memory.total", "--format=csv,noheader,nounits"]
_SLICE = re.compile(r"MIG [\d.c]*g\.(\d+)gb.*UUID: (MIG-[^)\s]+)")
"""A line of `nvidia-smi -L`: "  MIG 1g.10gb     Device  0: (UUID: MIG-c6d4f1ef-…)"."""


def card_bytes(accelerator: str) -> int | None:
    """Memory of a card by Ray's name; None where the name does not tell."""
    size = CARDS_GIB.get(accelerator)
    return None if size is None else size * GIB


def cards_here() -> list[int]:
    """Memory of the NVIDIA cards that this process may use, in the order of CUDA_VISIBLE_DEVICES.

    Ray sets that variable to the cards that it gave a worker: indices, UUIDs or slices of cards (MIG). Where it is not
    set all cards count; empty where there is none, or no driver answers. The driver is asked and not torch, which would
    open the GPU in this process: vLLM's own could not fork then.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return _sizes(_asked(*_QUESTION))
    names = [name.strip() for name in visible.split(",")]
    if "" in names or "-1" in names or "NoDevFiles" in names:  # CUDA uses those before the first that is none
        names = names[: min(names.index(none) for none in ("", "-1", "NoDevFiles") if none in names)]
    if not names:
        return []
    if any(name.startswith("MIG-") for name in names):
        return _slices(names)
    sizes = _sizes(_asked(*_QUESTION, "-i", ",".join(names)))
    if len(sizes) == len(names):
        return sizes
    if all(name.isdigit() and int(name) < len(sizes) for name in names):  # a driver that answers for all cards
        return [sizes[int(name)] for name in names]
    return sizes


def smallest_here() -> int | None:
    """Memory of the smallest card that this process may use; None where none is known."""
    return min(cards_here(), default=None)


def own_card_is_known(cards: list[int]) -> bool:
    """Whether the first of `cards` is the one that this process will use, or one like it.

    Not where they differ and nobody chose: by itself CUDA counts the fastest card first, nvidia-smi by the slot.
    """
    chosen = "CUDA_VISIBLE_DEVICES" in os.environ and os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    return chosen or len(set(cards)) <= 1


def _slices(names: list[str]) -> list[int]:
    """Memory of slices of cards by their UUIDs, from the names of their profiles (1g.10gb)."""
    sizes = {uuid: int(gib) * GIB for gib, uuid in _SLICE.findall(_asked("-L"))}
    found = [next((size for uuid, size in sizes.items() if uuid.startswith(name)), None) for name in names]
    return [size for size in found if size is not None]


def _sizes(answer: str) -> list[int]:
    return [int(line) * 2**20 for line in answer.split("\n") if line.strip().isdigit()]


def _asked(*arguments: str) -> str:
    """What nvidia-smi says; nothing where there is none, or it fails."""
    try:
        done = subprocess.run(  # noqa: S603
            ["nvidia-smi", *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
            timeout=QUESTION_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
