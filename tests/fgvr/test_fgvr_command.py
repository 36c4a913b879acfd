"""The command `fgvr`: a word for every script, and messages that name what was called."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fgvr import __version__, commands

ROOT = Path(__file__).parents[2]


def words_of_scripts() -> set[str]:
    files = [*(ROOT / "pipelines").glob("*.py"), *(ROOT / "tune").glob("*.py")]
    started = [file for file in files if '\nif __name__ == "__main__":' in file.read_text(encoding="utf-8")]
    return {f"{file.parent.name}.{file.stem}" for file in started}


def test_every_script_has_a_word_and_every_word_a_script() -> None:
    assert set(commands.COMMANDS.values()) == words_of_scripts()
    assert [word for word in commands.COMMANDS if f"  {word} " not in commands.listing()] == []


def test_a_wrong_word_is_told_with_what_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["statu"]) == 2
    assert "did you mean `fgvr status`?" in capsys.readouterr().err
    assert commands.main(["--version"]) == 0
    assert capsys.readouterr().out == f"fgvr {__version__}\n"


def test_messages_name_commands_as_they_were_called(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "give .venv/bin/python pipelines/full.py --plan, or python tune/sweep.py; python pipelines/command.py stays"
    assert commands.as_called(text) == text
    assert commands.program() is None
    monkeypatch.setattr(commands, "_called", "status")
    assert commands.as_called(text) == "give fgvr run --plan, or fgvr sweep; python pipelines/command.py stays"
    assert commands.program() == "fgvr status"


def test_a_script_is_run_with_its_own_words() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fgvr", "distill_encoder", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "fgvr distill-encoder --embed.vectors.kind file" in done.stdout
    assert "python pipelines/" not in done.stdout.split("Usage:")[0]
