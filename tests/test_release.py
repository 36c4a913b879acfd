"""The files of a release agree, and the script that makes one changes all of them or none."""

from __future__ import annotations

import re
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import fgvr

ROOT = Path(__file__).parents[1]
FILES = ("fgvr/__init__.py", "CITATION.cff", "CHANGELOG.md")


@pytest.fixture
def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / ".ci" / "release.py"))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    (tmp_path / "fgvr").mkdir()
    for name in FILES:
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- A.\n\n## [0.2.0] - 2026-12-01\n"
    )
    return tmp_path


def test_all_files_name_one_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == fgvr.__version__
    released = re.findall(r"^## \[(\d.*)\] - (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert released[0] == (fgvr.__version__, citation["date-released"].isoformat())


def test_a_release_is_written_into_all_files(copy: Path, script: dict[str, Any]) -> None:
    script["release"](copy, "0.3.0", "2027-01-31")
    assert '__version__ = "0.3.0"' in (copy / "fgvr" / "__init__.py").read_text()
    citation = yaml.safe_load((copy / "CITATION.cff").read_text())
    assert (citation["version"], citation["date-released"].isoformat()) == ("0.3.0", "2027-01-31")
    expected = "## [Unreleased]\n\n## [0.3.0] - 2027-01-31\n\n### Added\n\n- A.\n\n## [0.2.0] - 2026-12-01\n"
    assert (copy / "CHANGELOG.md").read_text() == f"# Changelog\n\n{expected}"


@pytest.mark.parametrize("version", ["0.2.0", "0.1.9", "1.0", "v0.3.0"])
def test_a_version_that_is_none_or_not_newer_is_refused(copy: Path, script: dict[str, Any], version: str) -> None:
    before = [(copy / name).read_text() for name in FILES]
    with pytest.raises(script["ReleaseError"], match=re.escape(version)):
        script["release"](copy, version, "2027-01-31")
    assert [(copy / name).read_text() for name in FILES] == before


def test_a_release_without_a_change_is_refused(copy: Path, script: dict[str, Any]) -> None:
    (copy / "CHANGELOG.md").write_text("# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2026-12-01\n\n- old\n")
    with pytest.raises(script["ReleaseError"], match="nothing stands under"):
        script["release"](copy, "0.3.0", "2027-01-31")
    assert '__version__ = "0.3.0"' not in (copy / "fgvr" / "__init__.py").read_text()
