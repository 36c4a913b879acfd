"""The wheel, built and installed into an empty environment: what lies at its top, and what its command can do.

Dependencies come from this environment, by a path of the new one; an installation of the project in it, editable or
not, is not seen there, and neither is the checkout: everything runs in other folders.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from tests.golden.test_kept_runs import unpacked

ROOT = Path(__file__).parents[1]
SHIPPED = ("cluster", "fgvr", "pipelines", "tune", "pyproject.toml", "setup.py", "README.md", "LICENSE")
GENERIC = ("cluster", "pipelines", "tune", "tests", "benchmarks")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel."""
    source, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in SHIPPED:  # a copy, since a build leaves folders behind
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    words = ("wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(dist), ".")
    subprocess.run([sys.executable, "-m", "pip", *words], cwd=source, check=True, capture_output=True)
    (found,) = dist.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment that has the wheel."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=False)
    programs = place / "bin"
    own = Path(sysconfig.get_path("purelib", vars={"base": str(place)}))
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    words = (
        "--python",
        str(programs / "python"),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--ignore-installed",
    )
    subprocess.run([sys.executable, "-m", "pip", *words, str(wheel)], check=True, capture_output=True)
    return programs


def said(programs: Path, folder: Path, words: Sequence[str], status: int = 0) -> str:
    """What a program of the environment prints, started in a folder that is not the checkout."""
    hidden = {"PYTHONPATH", "RAY_ADDRESS"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        [str(programs / words[0]), *words[1:]], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == status, f"{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def test_a_wheel_has_one_package_at_its_top(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"fgvr"}
    presets = {Path(name).name for name in names if name.startswith("fgvr/_app/pipelines/configs/")}
    assert presets == {file.name for file in (ROOT / "pipelines" / "configs").glob("*.yaml")}
    for package in ("cluster", "pipelines", "tune", "fgvr"):
        inside = f"fgvr/_app/{package}/" if package != "fgvr" else "fgvr/"
        for module in (ROOT / package).rglob("*.py"):
            assert inside + module.relative_to(ROOT / package).as_posix() in names
    shipped = {name.removeprefix("fgvr/") for name in names}
    kept = [file for file in (ROOT / "fgvr").rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    assert {file.relative_to(ROOT / "fgvr").as_posix() for file in kept} <= shipped


def test_the_general_names_are_not_importable_but_by_the_command(installed: Path, tmp_path: Path) -> None:
    code = f"from importlib.util import find_spec; print([n for n in {GENERIC} if find_spec(n)])"
    assert said(installed, tmp_path, ["python", "-c", code]).strip() == "[]"
    where = said(installed, tmp_path, ["python", "-c", "import fgvr; print(fgvr.__file__)"])
    assert str(installed.parent) in where


def test_commands_work_in_any_folder(installed: Path, tmp_path: Path) -> None:
    assert "fgvr demo" in said(installed, tmp_path, ["fgvr", "--help"])
    assert "nothing was started" in said(installed, tmp_path, ["fgvr", "plan", "--config", "demo"])
    run = unpacked("run_finished.tar.gz", tmp_path / "kept")
    assert "No difference was found." in said(installed, tmp_path, ["fgvr", "diff", str(run), str(run)])
    assert "fgvr status" in said(installed, tmp_path, ["fgvr", "status"], status=2)


def test_workers_find_the_stages(installed: Path, tmp_path: Path) -> None:
    # Ray's actors unpickle classes of cluster and pipelines by name.
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        Image.new("RGB", (64, 64), (80 * number, 40, 40)).save(photos / f"{number}.png")
    source = ("--ingest.source.kind", "folder", "--ingest.source.path", str(photos))
    words = ["fgvr", "embed", *source, "--run.name", "tiny", "--cluster.num_cpus", "1"]
    assert "embeddings: 3 rows" in said(installed, tmp_path, words)
    status = said(installed, tmp_path, ["fgvr", "status", "runs/tiny"])
    assert "embeddings" in status
    assert "finished" in status
