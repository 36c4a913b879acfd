"""Training writes a model into an empty folder, and never among or over somebody's files."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import pytest

from benchmarks.demo_models import backbone, clip, mllm
from benchmarks.demo_models.schedule import refuse_foreign


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    refuse_foreign(ArgumentParser(), tmp_path / "new")
    refuse_foreign(ArgumentParser(), tmp_path)


@pytest.mark.parametrize("name", ["IMG_1.jpg", "config.json"])  # the latter may be that of somebody's own model
@pytest.mark.parametrize("module", [backbone, clip, mllm])
def test_the_commands_ask_before_they_train(
    tmp_path: Path, module: Any, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).touch()
    with pytest.raises(SystemExit, match="2"):
        module.main(["--output", str(tmp_path)])
    assert f"is not empty ({name} …)" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == [name]
