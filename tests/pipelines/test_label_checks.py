"""What is wrong with the label stage's settings shows before the model is asked."""

from pathlib import Path

import pytest

from cluster.stage import RunContext
from fgvr.config import build
from fgvr.errors import UserError
from pipelines import label
from pipelines.flow import Flow
from tests.untracked import NoTracking


@pytest.mark.parametrize("field", ["aliases", "merge_model"])
def test_a_slip_shows_before_the_model_is_asked(field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(label, "answer", lambda *args, **_: asked.append(args[1]))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    tree = {
        "ingest": {"source": {"kind": "folder", "path": str(tmp_path / "photos")}},
        "label": {"merge_similarity": 0.9, field: str(tmp_path / "gone")},
    }
    flow = Flow(RunContext(build(tree), str(tmp_path / "run"), NoTracking()))
    with pytest.raises(UserError, match=f"label.{field}"):
        flow.labels  # noqa: B018
    assert asked == []
