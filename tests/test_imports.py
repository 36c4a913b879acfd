"""No circle of imports, and scripts that import little before they know that anything is to be computed.

Every import counts, those inside functions too: a circle that only a late import keeps from failing is still one that a
reader must know as a whole. Those for type checkers alone do not count. What lies inside a package of a package
(`fgvr.mllm.vllm_engine`) is a part of it; between the four packages tests/test_layers.py allows one direction.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from pipelines.registry import STAGES

ROOT = Path(__file__).parents[1]
PACKAGES = ("fgvr", "cluster", "pipelines", "tune")
HEAVY = {"ray", "torch", "transformers", "timm", "mlflow", "faiss", "pandas", "open_clip", "vllm"}


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = file
    return found


def imports(tree: ast.AST) -> Iterator[str]:
    """Full names that a module imports, anywhere in it but for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                continue
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module
                yield from (f"{module}.{alias.name}" for alias in node.names)
            case _:
                yield from imports(node)


def graph_of_modules() -> dict[str, set[str]]:
    """Module → modules that it imports."""
    files, graph = modules(), {}
    for name, file in files.items():
        # A package is what its modules are in: what is meant by `from package import module` is the module.
        named = {each for each in imports(ast.parse(file.read_text())) if each in files}
        graph[name] = {each for each in named if not name.startswith(f"{each}.") and each != name}
    return graph


def assert_no_circle(graph: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert_no_circle(graph_of_modules())


def test_no_package_imports_itself_by_way_of_others() -> None:
    files, graph = modules(), dict[str, set[str]]()

    def package(name: str) -> str:
        folder = files[name].parent.relative_to(ROOT)
        return ".".join(folder.parts[:2])

    for name, imported in graph_of_modules().items():
        # `from fgvr.a import b` names the package `fgvr.a`, too, whether or not it takes anything from it.
        modules_alone = {each for each in imported if not any(other.startswith(f"{each}.") for other in imported)}
        others = {package(each) for each in modules_alone} - {package(name)}
        graph.setdefault(package(name), set()).update(others)
    assert len(graph) > 15
    assert_no_circle(graph)


def test_the_files_of_stages_import_nothing_that_computes() -> None:
    names = [*sorted({line.partition(":")[0] for line in STAGES.values()}), "full"]
    code = f"import sys; {'; '.join(f'import pipelines.{name}' for name in names)}; print(*{HEAVY} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
