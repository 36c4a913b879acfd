"""What the extra `api` can do: a server names the photos, with torch and all that needs it out of reach everywhere.

The libraries are hidden by a `sitecustomize` on PYTHONPATH, which Ray's workers inherit, so that they are missing in
every process of the run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from fgvr.versions import MODEL_MODULES, missing_extra
from tests.fgvr.mllm.chat_server import ChatServer, completion, serving

ROOT = Path(__file__).parents[1]
HIDE = f"""
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(MODEL_MODULES)}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
"""


def test_the_dependencies_of_api_have_no_torch() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    assert extras["api"] == []
    heavy = ("torch", "transformers", "timm", "open_clip", "sentence", "vllm", "faiss", "safetensors")
    assert [name for name in project["dependencies"] if name.startswith(heavy)] == []
    assert "fgvr[models]" in extras["cpu"]
    assert "fgvr[models]" in extras["gpu"]


def test_a_missing_library_is_told_with_its_extra() -> None:
    error = RuntimeError("a worker failed")
    error.__cause__ = ModuleNotFoundError("No module named 'timm.layers'", name="timm.layers")
    assert "timm is not installed" in str(missing_extra(error))
    assert "fgvr[cpu]" in str(missing_extra(error))
    assert missing_extra(ModuleNotFoundError("No module named 'mine'", name="mine")) is None


@pytest.mark.slow
def test_a_server_names_photos_without_torch(tmp_path: Path) -> None:
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "sitecustomize.py").write_text(HIDE, encoding="utf-8")
    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.new("RGB", (64, 64), (60 * number, 80, 40)).save(tmp_path / "photos" / f"{number}.png")
    path = os.pathsep.join([str(tmp_path / "hidden"), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "OPENAI_API_KEY": "none"}

    def said(*words: str, status: int = 0) -> str:
        command = [sys.executable, *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == status, f"{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    said("-c", "import torch", status=1)  # the hiding works
    with serving(ChatServer(lambda *_: completion("Blue Finch"))) as server:
        model = ("--mllm.kind", "openai", "--mllm.model", "m", "--mllm.base_url", server.url)
        source = ("--ingest.source.kind", "folder", "--ingest.source.path", "photos")
        shared = (*source, *model, "--run.name", "named", "--cluster.num_cpus", "1")
        assert "labels: 3 rows, 0 failed" in said("-m", "fgvr", "label", *shared)
        assert "fgvr[cpu]" in said("-m", "fgvr", "embed", *shared, status=2)  # before it starts
    assert "No difference was found." in said("-m", "fgvr", "diff", "runs/named", "runs/named")
    code = "import fgvr; print(fgvr.open_run('runs/named').names().rows())"
    assert "[('Blue Finch', 3)]" in said("-c", code)
    said("-c", "import pipelines.review, pipelines.status, pipelines.plan, fgvr.review.server")
