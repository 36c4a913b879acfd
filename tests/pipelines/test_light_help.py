"""What a script imports before it knows what it is asked: nothing that computes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAVY = (
    *("ray", "mlflow", "torch", "torchvision", "timm", "transformers", "open_clip", "vllm", "faiss", "scipy"),
    *("sklearn", "pandas", "optuna", "sentence_transformers", "matplotlib", "openai"),
)
STARTER = """
import contextlib, io, json, runpy, sys
heavy, found = json.loads(sys.argv[1]), {}
for script in json.loads(sys.argv[2]):
    sys.argv[:] = [script, "--help"]
    before = set(sys.modules)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            assert not end.code, script
    assert len(said.getvalue()) > 300, script
    found[script] = sorted(set(heavy) & (set(sys.modules) - before))
print(json.dumps(found))
"""


def scripts() -> list[str]:
    """All that can be started in pipelines/ and tune/."""
    files = [file for folder in ("pipelines", "tune") for file in sorted((ROOT / folder).rglob("*.py"))]
    found = [file for file in files if '\nif __name__ == "__main__":' in file.read_text(encoding="utf-8")]
    return [file.relative_to(ROOT).as_posix() for file in found]


def test_help_imports_nothing_that_computes() -> None:
    """In one process, of which each script is told what it brought in: all of them by themselves take a minute."""
    asked = [json.dumps(HEAVY), json.dumps(scripts())]
    done = subprocess.run(
        [sys.executable, "-c", STARTER, *asked], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) > 12
    assert {script: names for script, names in found.items() if names} == {}


def test_a_config_is_read_without_a_library_that_computes() -> None:
    """Every worker reads one, and every command line, `--help` among them."""
    heavy = (*HEAVY, "numpy", "pyarrow", "PIL")
    code = f"import sys, cluster.run; print(sorted(set({heavy!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
