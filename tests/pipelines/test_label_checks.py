"""What is wrong with the label stage's settings shows before the model is asked."""

from pathlib import Path

import pytest

from cluster.stage import StageFolder
from fgvr.config import build
from fgvr.errors import UserError
from pipelines import label
from pipelines.preflight import check_tables


@pytest.mark.parametrize("field", ["aliases", "merge_model"])
def test_a_slip_shows_before_the_model_is_asked(field: str, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    tree = {
        "ingest": {"source": {"kind": "folder", "path": str(tmp_path / "photos")}},
        "label": {"merge_similarity": 0.9, field: str(tmp_path / "gone")},
    }
    with pytest.raises(UserError, match=f"label.{field}"):
        check_tables(build(tree), ["labels"])


def test_aliases_edited_in_place_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where failed rows are tried again the file is written anew, into the same folder."""
    caplog.set_level("INFO")
    folder = StageFolder(str(tmp_path), "labels", None)
    edits = [b"answer,label,count\nwren,Eurasian wren,2\n", b"answer,label,count\nwren,Jenny,2\n"]
    ours = b"answer,label,count\nwren,wren,2\n"
    label._write_aliases(folder, ours)
    label._write_aliases(folder, ours)
    assert caplog.messages == []
    for edit in edits:
        (tmp_path / "aliases.csv").write_bytes(edit)
        label._write_aliases(folder, ours)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {
        "aliases.csv": ours,
        "aliases.1.csv": edits[0],
        "aliases.2.csv": edits[1],
    }
    assert "the one that was there is kept as aliases.2.csv" in caplog.messages[1]
