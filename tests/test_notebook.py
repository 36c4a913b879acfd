"""The notebook's code runs from top to bottom on a run of an earlier version.

Its cells are plain Python, so no kernel is needed. The last expression of a cell is evaluated, as Jupyter would
show it.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.golden.test_kept_runs import DRAWINGS, NAMED, unpacked

NOTEBOOK = Path(__file__).parents[1] / "docs" / "read-a-run.ipynb"


def executed(source: str, names: dict[str, Any]) -> Any:
    """Run a cell; returns the value of its last expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)  # noqa: S102  # the notebook of this repository
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)  # noqa: S307


def test_all_cells_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = unpacked("run_finished.tar.gz", tmp_path / "kept")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(run)
    monkeypatch.chdir(tmp_path)
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    names: dict[str, Any] = {}
    shown = {cell["id"]: executed("".join(cell["source"]), names) for cell in cells if cell["cell_type"] == "code"}
    assert shown["open"]["samples"] == DRAWINGS
    assert names["names"]["photos"].sum() == NAMED
    assert pl.read_csv("predictions.csv").height == DRAWINGS
    assert shown["model"][0][1] >= shown["model"][1][1] >= shown["model"][2][1] > 0
    assert [cell["outputs"] for cell in cells if cell["cell_type"] == "code" and cell["outputs"]] == []
