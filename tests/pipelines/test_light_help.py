"""What is imported before a command line is read: nothing that computes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAVY = (
    *("ray", "mlflow", "torch", "torchvision", "timm", "transformers", "open_clip", "vllm", "faiss", "scipy"),
    *("sklearn", "pandas", "optuna", "sentence_transformers", "matplotlib", "openai"),
)


def test_a_config_is_read_without_a_library_that_computes() -> None:
    """Every worker reads one, and every command line, `--help` among them."""
    heavy = (*HEAVY, "numpy", "pyarrow", "PIL")
    code = f"import sys, cluster.run; print(sorted(set({heavy!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
