"""The versions that set-up installs: cluster/constraints-*.txt, made by cluster/lock.sh from pyproject.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PYTHONS = ("3.11.7", "3.12.3", "3.13.1")
TAKEN_OUT = {"torchaudio", "torchcodec"}


def pinned(kind: str) -> list[Requirement]:
    lines = (ROOT / "cluster" / f"constraints-{kind}.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


def versions(kind: str, python: str) -> dict[str, list[Version]]:
    """Package → the versions that hold for a Python on Linux."""
    here = {
        "python_full_version": python,
        "python_version": python.rpartition(".")[0],
        "platform_machine": "x86_64",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
    }
    found: dict[str, list[Version]] = {}
    for line in pinned(kind):
        if line.marker is None or line.marker.evaluate(here):
            (pin,) = line.specifier
            assert pin.operator == "=="
            found.setdefault(canonicalize_name(line.name), []).append(Version(pin.version))
    return found


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_every_dependency_is_pinned_within_its_range(kind: str, python: str) -> None:
    found = versions(kind, python)
    extras = PROJECT["optional-dependencies"]
    assert extras[kind][0] == "fgvr[models]"  # this project's own extra, whose content follows
    named = [*extras[kind][1:], *extras["models"], *extras["dev"], *extras["heif"], *extras["augment"]]
    for text in [*PROJECT["dependencies"], *named]:
        asked = Requirement(text)
        assert asked.specifier.contains(found[canonicalize_name(asked.name)][0]), text
    assert {name: pins for name, pins in found.items() if len(pins) != 1} == {}


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_what_is_pinned_can_be_had_from_any_index(kind: str) -> None:
    for line in pinned(kind):
        assert line.url is None
        assert "+" not in str(line.specifier)  # a CPU build's own version: the default index does not have it
        assert not line.extras  # pip takes none in constraints
    assert TAKEN_OUT.isdisjoint(line.name for line in pinned(kind))


def test_set_up_and_the_image_use_them() -> None:
    setup = (ROOT / "cluster" / "setup.sh").read_text(encoding="utf-8")
    for kind in ("cpu", "gpu"):
        assert f"pip install -c cluster/constraints-{kind}.txt -e '.[{kind},dev]'" in setup
        assert f" cluster/constraints-{kind}.txt " in (ROOT / "cluster" / "Dockerfile").read_text(encoding="utf-8")
    assert "$(wildcard cluster/constraints-*.txt)" in (ROOT / "Makefile").read_text(encoding="utf-8")
