import os
import time
from pathlib import Path

import pytest

from fgvr.digests import KEPT
from fgvr.disk_cache import GIB, Use
from pipelines import cache

DAY = 86400.0


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with a copy of today, one of 40 days ago, decoded images in use, a rest and somebody's models."""
    monkeypatch.setenv("FGVR_CACHE", str(tmp_path))
    monkeypatch.delenv("FGVR_CACHE_GB", raising=False)
    for place, days in [
        ("folders/fresh", 0),
        ("folders/old", 40),
        ("folders/.broken.12ab", 2),
        ("images/photos-1", 50),
        ("grocery/mllm", 90),
    ]:
        folder = tmp_path / place
        folder.mkdir(parents=True)
        (folder / "content").write_bytes(bytes(2**20))
        os.utime(folder, (time.time() - days * DAY,) * 2)
    return tmp_path


def left(root: Path) -> list[str]:
    return sorted(f"{entry.parent.name}/{entry.name}" for entry in root.glob("*/*") if entry.is_dir())


def test_a_look_removes_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = left(root)
    assert cache.main([]) == 0
    said = capsys.readouterr().out
    assert "folders: 3.00 MiB of " in said
    assert "old                         1.00 MiB  used 960 h 0 min ago" in said
    assert "grocery: 1.00 MiB (yours: removed only with --kind)" in said
    assert left(root) == before


def test_kept_digests_are_nobodys_models(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / KEPT).mkdir()
    (root / KEPT / "1f2e.json").write_text("{}")
    assert cache.main([]) == 0
    assert f"\n{KEPT}:" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.98 KiB"),
        (300_000, "292.97 KiB"),
        (2**20 - 1, "1.00 MiB"),
        (5 * 2**30 + 2**29, "5.50 GiB"),
        (2**30 - 1, "1.00 GiB"),
    ],
)
def test_small_things_are_not_nothing(size: int, said: str) -> None:
    assert cache.size_of(size) == said


@pytest.mark.parametrize(
    ("arguments", "gone"),
    [
        (["--older-than", "30d"], {"folders/old", "images/photos-1"}),
        (["--older-than", "24h", "--kind", "folders"], {"folders/old", "folders/.broken.12ab"}),
        (["--older-than", "6w"], {"images/photos-1"}),
        (["--all"], {"folders/fresh", "folders/old", "folders/.broken.12ab", "images/photos-1"}),
        (["--all", "--kind", "grocery"], {"grocery/mllm"}),
        (["--all", "--kind", "images"], {"images/photos-1"}),
        (["--clean"], {"folders/.broken.12ab"}),
    ],
)
def test_what_is_asked_for_is_removed_and_told(
    root: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], gone: set[str]
) -> None:
    before = left(root)
    assert cache.main(arguments) == 0
    assert set(before) - set(left(root)) == gone
    said = capsys.readouterr().out
    assert all(f"removed {place}" in said for place in gone)
    assert f"{len(gone)} removed" in said


def test_cleaning_brings_copies_below_their_bound(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FGVR_CACHE_GB", str(1.5 * 2**20 / GIB))
    assert cache.main(["--clean"]) == 0
    assert left(root) == ["folders/fresh", "grocery/mllm", "images/photos-1"]


def test_what_a_process_uses_stays(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    use = Use(root / "images/photos-1", "s3://somebody:secret@bucket")
    assert cache.main(["--all"]) == 0
    assert "left images/photos-1, 1.00 MiB: a process uses it" in capsys.readouterr().out
    assert (root / "images/photos-1").is_dir()
    cache.main([])
    assert "in use" in capsys.readouterr().out
    use.end()


def test_what_cannot_be_is_said(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache.main(["--all", "--kind", "models"]) == 2
    assert "has no models; there are: folders, grocery, images" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cache.main(["--older-than", "soon"])
    monkeypatch.setenv("FGVR_CACHE", str(root / "nowhere"))
    assert cache.main([]) == 0
    assert cache.main(["--all"]) == 0
