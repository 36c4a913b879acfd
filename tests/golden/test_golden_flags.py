"""Every flag of every script with its default, and the exit statuses that shells and schedulers rely on.

A flag that goes, or whose default changes, changes what a command line in somebody's notebook means. The list is taken
from the config tree and the scripts' parsers, not from the text of `--help`, whose layout is nobody's interface. Where
a change is meant, this writes the file anew, whose diff goes with a line in CHANGELOG.md:

    FGVR_REWRITE_GOLDEN=1 python -m pytest tests/golden/test_golden_flags.py
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fgvr.config import Config
from fgvr.config.tree import known_leaves, type_name
from tests.golden import golden

ROOT = Path(__file__).parents[2]
WITH_PARSER = (
    "pipelines/cache.py",
    "pipelines/diff.py",
    "pipelines/export.py",
    "pipelines/review.py",
    "pipelines/status.py",
    "tune/sweep.py",
    "cluster/local_cluster.py",
)
"""Scripts with flags of their own; the last but one takes those of the config, too."""
WITHOUT_CONFIG = set(WITH_PARSER) - {"tune/sweep.py"}


def scripts() -> list[str]:
    """All files that can be started, as people type them."""
    files = [file for folder in ("pipelines", "tune", "cluster") for file in sorted((ROOT / folder).rglob("*.py"))]
    started = [file for file in files if '\nif __name__ == "__main__":' in file.read_text(encoding="utf-8")]
    return [file.relative_to(ROOT).as_posix() for file in started]


def config_flags() -> dict[str, list[str]]:
    """Flag of the config → its type and default, once per kind of part that has it."""
    flags: dict[str, list[str]] = {}
    for leaf in known_leaves(Config):
        required = repr(leaf.default) == "PydanticUndefined"
        default = "required" if required else f"default {json.dumps(leaf.default, ensure_ascii=False)}"
        # A field may be one of several kinds' parts; of `kind` itself the default names the kind.
        flags.setdefault(f"--{leaf.name}", []).append(f"{type_name(leaf.annotation)}; {default}")
    return flags


def own_flags(script: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Flag of a script's own parser → its default and choices."""
    made: list[argparse.ArgumentParser] = []

    def kept(parser: argparse.ArgumentParser) -> str:
        made.append(parser)
        return ""

    module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    monkeypatch.setattr(argparse.ArgumentParser, "format_help", kept)
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit):
        module.main()
    (parser,) = made
    return {", ".join(action.option_strings) or action.dest: _facts(action) for action in parser._actions}


def _facts(action: argparse.Action) -> dict[str, Any]:
    choices = None if action.choices is None else sorted(action.choices)
    default = None if action.default == argparse.SUPPRESS else action.default
    return {"default": default, "choices": choices, "required": action.required, "values": action.nargs}


def test_flags_and_their_defaults(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    own = {script: own_flags(script, monkeypatch) for script in WITH_PARSER}
    capsys.readouterr()
    golden.check("flags", {"config": config_flags(), "scripts": scripts(), **own})


FIELD = "--near.epochs"
WRONG_VALUE = {
    "pipelines/cache.py": ["--older-than", "soon"],
    "pipelines/diff.py": ["no/such/run", "no/such/run"],
    "pipelines/review.py": ["no/such/run"],
    "pipelines/status.py": ["no/such/run"],
    "tune/sweep.py": ["--stage", "label"],
    "cluster/local_cluster.py": ["--workers", "two"],
}
"""Of scripts with flags of their own; of the others one of the config's is given a word for a number."""
CHOSEN = ["--label.images.select", "medoids", "--label.images.per_class", "null"]
SUITS = {
    "pipelines/calibration.py": ["--infer.target_precision=0.9"],
    "pipelines/cascade.py": ["--infer.target_precision=0.9"],
    "pipelines/second_looks.py": ["--infer.target_precision=0.9", "--infer.second_look_budget=9"],
    "pipelines/detect.py": ["--config", "scenes"],
    "pipelines/drift.py": ["--infer.drift.measure", "true"],
    "pipelines/duplicates.py": ["--label.duplicate_similarity", "0.98"],
    "pipelines/looks.py": ["--aspects.with_labels", "true"],
    "pipelines/rounds.py": [*CHOSEN, "--label.rounds", "2"],
    "pipelines/parents.py": ["--hierarchy.source", "mllm"],
    "pipelines/reask.py": ["--label.reask", "0.1"],
    "pipelines/selection.py": CHOSEN,
    "pipelines/signatures.py": ["--signatures.file", "tests/golden/choices.txt"],
}
"""What the scripts need that cannot do anything for the demo."""
STARTER = """
import contextlib, io, json, runpy, sys
found = []
for script, *arguments in json.loads(sys.argv[1]):
    sys.argv[:] = [script, *arguments]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            runpy.run_path(script, run_name="__main__")
            found.append(0)
        except SystemExit as end:
            found.append(0 if end.code is None else end.code)
print(json.dumps(found))
"""


@pytest.mark.slow
def test_exit_statuses_before_anything_starts(tmp_path: Path) -> None:
    cases: list[tuple[list[str], int]] = []
    for script in scripts():
        needed = ["--stage", "near"] if script == "tune/sweep.py" else []
        cases += [([script, "--help"], 0), ([script, *needed, "--no_such_flag", "1"], 2)]
        cases.append(([script, *WRONG_VALUE.get(script, [FIELD, "many"])], 2))
        if script not in WITHOUT_CONFIG:
            cases.append(([script, *needed, FIELD, "many"], 2))
            cases.append(([script, *needed, "--ingest.source.kind", "folder", "--ingest.source.path", "no/such"], 2))
            # A flag as shells join it, and the presets by name.
            cases.append(([script, *needed, "--config=no_such_preset"], 2))
            suits = SUITS.get(script, [])
            cases.append(([script, *needed, *suits, f"--run.folder={tmp_path}", "--plan"], 0))
    asked = json.dumps([words for words, _ in cases])
    done = subprocess.run(
        [sys.executable, "-c", STARTER, asked], cwd=ROOT, capture_output=True, text=True, check=True, timeout=500
    )
    found = json.loads(done.stdout.splitlines()[-1])
    wrong = [
        f"{' '.join(words)}: {got}, not {want}" for (words, want), got in zip(cases, found, strict=True) if got != want
    ]
    assert not wrong
    assert not list(tmp_path.iterdir())  # nothing was begun
