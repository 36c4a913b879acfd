"""Every benchmark can be started, imports what there is, and stands where the documentation says."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.harness import ROOT

PACKAGES = ("benchmarks", "fgvr", "cluster", "pipelines", "tune")
SOURCES = sorted((ROOT / "benchmarks").rglob("*.py"))
COMMANDS = [path for path in SOURCES if 'if __name__ == "__main__"' in path.read_text()]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "fgvr").rglob("*.md")]


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def file_of(module: str) -> Path | None:
    place = ROOT.joinpath(*module.split("."))
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


def bound_in(module: str) -> set[str]:
    """Names that a module binds at its top level, conditional ones included."""
    file = file_of(module)
    if file is None:
        return set()
    names: set[str] = set()
    todo: list[ast.stmt] = list(ast.parse(file.read_text()).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
        else:
            todo += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
    return names


@pytest.mark.parametrize("path", SOURCES, ids=dotted)
def test_what_it_imports_of_the_project_exists(path: Path) -> None:
    # Without importing it: most import torch, and a renamed function of the product must not wait for somebody to
    # start the benchmark that uses it.
    missing = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
            there = bound_in(node.module or "")
            missing += [
                f"{node.module}.{alias.name}"
                for alias in node.names
                if alias.name not in there and file_of(f"{node.module}.{alias.name}") is None
            ]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] in PACKAGES]
            missing += [name for name in names if file_of(name) is None]
    assert not missing


@pytest.mark.slow
def test_every_command_says_what_it_does() -> None:
    # All in one process, since torch and vLLM take seconds to import.
    program = """
import contextlib, importlib, io, sys
for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            importlib.import_module(name).main()
    except SystemExit as ended:
        assert ended.code == 0, name
    else:
        raise AssertionError(f"{name}: --help did not end it")
    assert f"benchmarks.{name.split('.', 1)[1]}" in said.getvalue(), f"{name}: no command line of its own in its --help"
"""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(dotted, COMMANDS)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_product_knows_nothing_of_benchmarks() -> None:
    product = [path for package in PACKAGES[1:] for path in (ROOT / package).rglob("*.py")]
    found = [path for path in product if re.search(r"^\s*(?:from|import) benchmarks\b", path.read_text(), re.MULTILINE)]
    assert len(product) > 100
    assert not found


def test_there_are_commands_in_every_folder() -> None:
    assert {path.parent.name for path in COMMANDS} >= {"papers", "grocery", "speed", "scale", "quality", "demo_models"}


@pytest.mark.parametrize("page", [*PAGES, *SOURCES], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_and_module_that_is_named_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    folders = "|".join((*PACKAGES, "docs", "tests"))
    paths = re.findall(rf"(?<![\w/.-])(?:{folders})/[\w./-]+\.(?:py|md|yaml|csv|sh|html)\b", text)
    modules = re.findall(rf"-m ((?:{'|'.join(PACKAGES)})(?:\.\w+)+)", text)
    # As a script it would not find the package that it is in.
    assert "python benchmarks/" not in text
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert not missing + [module for module in modules if file_of(module) is None]
