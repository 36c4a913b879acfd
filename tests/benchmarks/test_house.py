"""The product's measures on a product of six files, counted by hand."""

from pathlib import Path

import pytest

from benchmarks.harness import ROOT
from benchmarks.house import NAMED, WAY, Product, by_the_book, circles, folders, measure

FILES = {
    "fgvr/__init__.py": '"""The package."""\n',
    "fgvr/data/__init__.py": "from fgvr.data.read import run_parts\n",
    # Lazy imports count, those for type checkers do not.
    "fgvr/data/read.py": (
        "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from fgvr.other import Other\n\n\n"
        "def run_parts():\n    from fgvr.data import write\n\n    return write\n"
    ),
    "fgvr/data/write.py": "# why\nimport fgvr.data.read  # noqa: F401\n",
    "fgvr/other.py": '"""makd is no word of code here."""\n\n\nclass Other:\n    pass\n',
    # The package's name is seen through to the file that defines it.
    "pipelines/makd.py": (
        "from fgvr.data import run_parts\nfrom fgvr.other import (\n    Other,\n)\n\nrun_parts(Other)\n"
    ),
    "pipelines/full.py": 'STAGES = ("makd",)\n',
}


@pytest.fixture
def product(tmp_path: Path) -> Product:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return Product.read(tmp_path)


def test_imports_lead_to_the_file_that_defines(product):
    assert product.graph["pipelines.makd"] == {"fgvr.data.read", "fgvr.other"}
    assert product.graph["fgvr.data.read"] == {"fgvr.data.write"}
    assert product.graph["fgvr.data.write"] == {"fgvr.data.read"}
    assert product.closure(["pipelines.makd"]) == {"pipelines.makd", "fgvr.data.read", "fgvr.data.write", "fgvr.other"}


def test_all_measures(product):
    assert measure(product).numbers == {
        "modules": 5,
        "lines": 26,  # 1 + 1 + 10 + 2 + 5 + 6 + 1
        "median lines of a module": 5,  # 1 2 5 6 10
        "modules below 60 lines": 5,
        "import lines, % of all": pytest.approx(100 * 8 / 26, abs=0.1),
        "comments per 1,000 lines": 38.5,
        "import circles, files": 1,
        "files in them": 2,
        "import circles, folders": 0,
        "folders in them": 0,
        "modules with one importer": 2,
        "files to open: one row's way": 2,
        "files to open: a trainer": 2,
        "files to open: a backend": 0,
        "files to open: a stage": 0,
    }


def test_circles_are_strongly_connected_groups():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": set(), "f": {"g"}, "g": {"f"}}
    assert circles(graph) == [["a", "b", "c"], ["f", "g"]]
    assert folders({"a.x": {"b.y"}, "b.y": {"b.z"}, "b.z": {"a.x"}}) == {"a": {"b"}, "b": {"a"}}


def test_what_the_page_about_extending_names(product, tmp_path):
    page = tmp_path / "extending.md"
    assert by_the_book(page, product) == {}
    named = "`pipelines/makd.py`, `pipelines/full.py`, again `pipelines/makd.py`"
    page.write_text(f"# Extending\n\n## Add a trainer\n\n{named}\n")
    assert by_the_book(page, product) == {"files to open: a trainer, by the book": 2}


def test_a_package_that_defines_something_is_a_file_to_open(tmp_path):
    for name, text in {
        "fgvr/data/__init__.py": "from fgvr.data.rows import Rows\n\n\ndef read():\n    return Rows\n",
        "fgvr/data/rows.py": "class Rows:\n    pass\n",
        "fgvr/use.py": "from fgvr.data import Rows, read\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    product = Product.read(tmp_path)
    assert product.graph["fgvr.use"] == {"fgvr.data", "fgvr.data.rows"}
    assert product.defining(["read"]) == ["fgvr.data"]


def test_what_the_counts_start_from_is_still_there():
    # A renamed worker or trainer would make the counts smaller without a word.
    product = Product.read(ROOT)
    assert all(product.defining([name]) for name in WAY)
    assert all(product.naming(words) for words in NAMED.values())
