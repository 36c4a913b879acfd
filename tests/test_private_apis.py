"""What Ray and vLLM do not promise is used in one file each, which says what for and what happens without it."""

import ast
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from cluster import ray_private
from fgvr.mllm.vllm_engine import private

ALLOWED = {"ray": "cluster/ray_private.py", "vllm": "fgvr/mllm/vllm_engine/private.py"}
PUBLIC_OF_VLLM = {"vllm", "vllm.lora.request", "vllm.sampling_params"}
"""Modules that vLLM's documentation names to users."""
HIDDEN = {"engine_core", "renderer", "mm_processor", "mm_receiver_cache", "_renderer"}
"""Attributes of a `vllm.LLM` that it does not promise."""
FILES = [place for folder in ("fgvr", "cluster", "pipelines", "tune") for place in Path(folder).rglob("*.py")]


def modules(node: ast.AST) -> list[str]:
    """Modules and their parts that a statement imports, `a.b.c`."""
    match node:
        case ast.Import(names=names):
            return [name.name for name in names]
        case ast.ImportFrom(module=str(module), names=names):
            return [f"{module}.{name.name}" for name in names]
        case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(module)), *_]):
            return [module]
    return []


def uses(text: str) -> set[str]:
    """Which of the two libraries a file uses beyond what they promise."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        for module in modules(node):
            library, _, rest = module.partition(".")
            if library == "ray" and any(part.startswith("_") or part == "experimental" for part in rest.split(".")):
                found.add("ray")
            if library == "vllm" and module not in PUBLIC_OF_VLLM and module.rpartition(".")[0] not in PUBLIC_OF_VLLM:
                found.add("vllm")
        if isinstance(node, ast.Attribute):
            root = node
            while isinstance(root, ast.Attribute):
                root = root.value  # type: ignore[assignment]
            if isinstance(root, ast.Name) and root.id == "ray" and node.attr.startswith("_") and node.attr[1] != "_":
                found.add("ray")
            if node.attr in HIDDEN:
                found.add("vllm")
    return found


def test_each_library_is_used_so_in_one_file() -> None:
    found = {(library, str(file)) for file in FILES for library in uses(file.read_text())}
    assert found <= set(ALLOWED.items())


@pytest.mark.parametrize(
    ("text", "library"),
    [
        ("from ray._private import services", "ray"),
        ("from ray import _private", "ray"),
        ("import ray.experimental.internal_kv", "ray"),
        ("import importlib; importlib.import_module('ray._raylet')", "ray"),
        ("ray._private.worker.global_worker", "ray"),
        ("from vllm.multimodal import cache", "vllm"),
        ("self._llm.llm_engine.engine_core.shutdown()", "vllm"),
    ],
)
def test_every_way_of_it_is_seen(text: str, library: str) -> None:
    assert uses(text) == {library}


def test_public_parts_are_for_everybody() -> None:
    assert not uses("from vllm import LLM, SamplingParams\nfrom vllm.sampling_params import RequestOutputKind")
    assert not uses("import ray.data\nfrom ray.util.metrics import Counter\nray.init(); ray.__version__")


def test_what_a_later_ray_lacks_is_said_with_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "__version__", "9.9")
    monkeypatch.delattr("ray._private.services.resolve_ip_for_localhost")
    with pytest.raises(
        ray_private.UnknownRay, match=r"Ray 9\.9 has no ray\._private\.services\.resolve_ip.*Install Ray"
    ):
        ray_private.loopback_kept().__enter__()


def test_what_a_later_vllm_lacks_is_said_with_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: "9.9")
    with pytest.raises(private.UnknownVllm, match=r"vLLM 9\.9 has no renderer, which .* making prompts"):
        private.Inputs(SimpleNamespace())
