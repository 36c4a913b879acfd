"""How much memory a GPU has: by the name that Ray gives it, or as this machine's driver says."""

from __future__ import annotations

import subprocess

from fgvr.mllm.memory import GIB

CARDS_GIB = {
    "P4": 8, "T4": 16, "P100": 16, "V100": 16, "L4": 24, "A10G": 24, "A10": 24, "L40S": 48, "A100-40G": 40,
    "A100-80G": 80, "H100": 80, "H20": 96, "H200": 141, "GH200": 96, "B200": 180, "B300": 288,
}  # fmt: skip
"""By `accelerator_type`, as in the makers' data sheets; the smallest where a name covers several, `A100` is either."""
QUESTION_SECONDS = 20.0


def card_bytes(accelerator: str) -> int | None:
    """Memory of a card by Ray's name; None where the name does not tell."""
    size = CARDS_GIB.get(accelerator)
    return None if size is None else size * GIB


def smallest_here() -> int | None:
    """Memory of the smallest NVIDIA card of this machine; None where there is none, or no driver answers.

    The driver is asked and not torch, which would open the GPU in this process: vLLM's own could not fork then.
    """
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=QUESTION_SECONDS)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    sizes = [int(line) * 2**20 for line in done.stdout.split("\n") if line.strip().isdigit()]
    return min(sizes, default=None)
