"""Training writes a model into an empty folder or over a model, and not among somebody's files."""

from pathlib import Path

import pytest

from benchmarks.demo_models import clip, mllm
from fgvr.demo.drawn_files import may_take_model


def test_an_empty_folder_and_a_model_s(tmp_path: Path) -> None:
    assert may_take_model(str(tmp_path / "new"))
    assert may_take_model(str(tmp_path))
    (tmp_path / "notes.txt").touch()
    assert not may_take_model(str(tmp_path))
    assert not may_take_model(str(tmp_path / "notes.txt"))
    (tmp_path / "config.json").touch()
    assert may_take_model(str(tmp_path))


@pytest.mark.parametrize("module", [clip, mllm])
def test_the_commands_ask_before_they_train(tmp_path: Path, module: object, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "IMG_1.jpg").touch()
    with pytest.raises(SystemExit, match="2"):
        module.main(["--output", str(tmp_path)])
    assert "neither empty nor a model's folder" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["IMG_1.jpg"]
