"""Counts the shape of the product: lines, modules, import circles, and how many files a reader must open.

    python -m benchmarks.house                                     # this checkout
    python -m benchmarks.house --revisions f18fa75 HEAD            # one column per revision
    python -m benchmarks.house --help-cost                         # also CPU seconds of each --help; takes minutes
    python -m benchmarks.house --run runs/demo                     # also seconds of a finished run and of its stages
    python -m benchmarks.house --behind "a stage"                  # the files behind the counts with this name

The counts cover the packages of PRODUCT. A *module* is a `.py` file other than `__init__.py`; its *lines* are all lines
of its text. Totals of lines and shares include `__init__.py` files.

- `import lines`: lines of import statements. `comments`: tokens that begin with `#`, without directives for tools.
- An *import* joins a file to the file that defines what is imported: for `from package import name`, the module from
which
  the package's `__init__.py` takes the name. Imports inside functions count; those under `if TYPE_CHECKING` do not.
- `import circles, files`: groups of modules that import each other, directly or indirectly; `folders`: the same for
  folders, where a folder imports another one if a module directly in it does. `one importer`: modules that exactly one
  file imports.
- `files to open`: what a reader must open: modules, and packages whose `__init__.py` defines something itself.
  - `one row's way`: everything that is imported, directly or indirectly, by the code that a photo's row passes from the
    samples table to its prediction: the workers of the row-parallel stages and their parts, candidate sets, and both
    training loops (WAY). Listing photos is not included, since a row passes one of a dozen sources.
  - `a trainer`, `a backend`, `a stage`: modules whose code names an existing one (NAMED): what someone who adds another
  by
    this example must look at. Words in code and file names count, those in comments and docstrings do not.
  - `…, by the book`: modules that docs/extending.md names in its section about it, if there is one.
- `--help`: CPU seconds per script of `pipelines/` and `tune/`, the median of `--repeat` rounds.

For a run: seconds from the start of its last session to its last heartbeat, and per stage. The engine starts of the
demo are counted while it runs: `python -m benchmarks.speed.demo`.
"""

from __future__ import annotations

import ast
import io
import json
import os
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
import tokenize
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from benchmarks import harness

PRODUCT: Final = ("fgvr", "cluster", "pipelines", "tune")
SHORT: Final = 60
MOST_PACKAGES: Final = 5
"""Most packages through which a name is followed to its definition."""
WAY: Final = (
    *("LabelWorker", "EmbedWorker", "AspectWorker", "InferWorker", "run_parts"),
    *("candidate_sets", "train_near", "train_student"),
)
"""Classes and functions that a photo's row passes; a reader starts at the modules that define them."""
NAMED: Final[Mapping[str, str]] = {
    "a trainer": r"makd|Makd\w*",
    "a backend": r"VllmBackend|OpenAIBackend|SimulatedBackend",
    "a stage": r"\w*class_score\w*|ClassScore\w*",
}


@dataclass(frozen=True)
class Source:
    """A file of the product.

    Attributes:
        path: path relative to the root of the checkout.
        text: its content.
    """

    path: Path
    text: str

    @property
    def name(self) -> str:
        """Its dotted name; for an `__init__.py`, that of the package."""
        parts = self.path.with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def is_module(self) -> bool:
        """Whether it is not an `__init__.py`."""
        return self.path.name != "__init__.py"

    @property
    def lines(self) -> int:
        """Number of lines."""
        return len(self.text.splitlines())

    @cached_property
    def tree(self) -> ast.Module:
        """The parsed syntax tree."""
        return ast.parse(self.text)

    @cached_property
    def imports(self) -> list[ast.Import | ast.ImportFrom]:
        """Import statements, also those in functions, without those only for type checkers."""
        return list(_imports(self.tree))

    @cached_property
    def defined(self) -> set[str]:
        """Classes and functions at its top level."""
        return {node.name for node in self.tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}

    def comments(self) -> int:
        """Number of comments for people."""
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        directive = re.compile(r"#\s*(noqa|type:|ruff|pragma|mypy|!)")
        return sum(one.type == tokenize.COMMENT and not directive.match(one.string) for one in tokens)

    @cached_property
    def code_words(self) -> set[str]:
        """Its own name, and the names and string literals in it, without docstrings and comments."""
        documentation = {
            id(node.value)
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        words = set(self.name.split("."))
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Name):
                words.add(node.id)
            elif isinstance(node, ast.Attribute):
                words.add(node.attr)
            elif isinstance(node, ast.ClassDef | ast.FunctionDef):
                words.add(node.name)
            elif isinstance(node, ast.arg | ast.keyword):
                words.add(node.arg or "")
            elif isinstance(node, ast.alias):
                words |= {*node.name.split("."), node.asname or ""}
            elif isinstance(node, ast.ImportFrom):
                words |= set((node.module or "").split("."))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
                words.add(node.value)
        return words


def _imports(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node
        return
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        children: Iterable[ast.AST] = node.orelse
    else:
        children = ast.iter_child_nodes(node)
    for child in children:
        yield from _imports(child)


@dataclass(frozen=True)
class Product:
    """All files of the product by dotted name."""

    files: Mapping[str, Source]

    @classmethod
    def read(cls, root: Path) -> Product:
        """Read the files of a checkout."""
        paths = [path for package in PRODUCT for path in sorted((root / package).rglob("*.py"))]
        sources = [Source(path.relative_to(root), path.read_text(encoding="utf-8")) for path in paths]
        return cls({source.name: source for source in sources})

    @cached_property
    def modules(self) -> list[Source]:
        """All modules, without `__init__.py`."""
        return [source for source in self.files.values() if source.is_module]

    @cached_property
    def graph(self) -> dict[str, set[str]]:
        """File → files that define what it imports; packages that only re-export are skipped."""
        return {
            source.name: {one for found in source.imports for one in self._targets(source, found)} - {source.name}
            for source in self.files.values()
        }

    def _targets(self, source: Source, statement: ast.Import | ast.ImportFrom) -> Iterator[str]:
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                yield from self._owner(alias.name, None)
            return
        base = statement.module or ""
        if statement.level:
            package = source.name.split(".")[: -statement.level] if source.is_module else source.name.split(".")
            base = ".".join([*package, base] if base else package)
        for alias in statement.names:
            yield from self._owner(base, alias.name)

    def _owner(self, module: str, name: str | None, depth: int = 0) -> Iterator[str]:
        """The module that defines `name` of `module`, or `module` itself; nothing outside the product."""
        if name is not None and f"{module}.{name}" in self.files:
            yield from self._owner(f"{module}.{name}", None)
            return
        source = self.files.get(module)
        if source is None:
            return
        if source.is_module or name in source.defined:
            yield module
            return
        for statement in source.imports if name is not None and depth < MOST_PACKAGES else ():
            if isinstance(statement, ast.ImportFrom) and name in {one.asname or one.name for one in statement.names}:
                original = next(one.name for one in statement.names if (one.asname or one.name) == name)
                yield from self._owner(statement.module or "", original, depth + 1)

    def closure(self, start: Iterable[str]) -> set[str]:
        """These files and all that they import, directly or indirectly."""
        seen, left = set(start), list(start)
        while left:
            new = self.graph[left.pop()] - seen
            seen |= new
            left += new
        return seen

    def defining(self, names: Iterable[str]) -> list[str]:
        """Files that define classes or functions of these names; undefined names are left out."""
        wanted = set(names)
        return [source.name for source in self.files.values() if wanted & source.defined]

    def naming(self, pattern: str) -> list[Source]:
        """Modules whose code contains one of the words as a whole."""
        word = re.compile(rf"(?<![A-Za-z0-9_])(?:{pattern})(?![A-Za-z0-9_])")
        return [source for source in self.modules if any(word.search(one) for one in source.code_words)]


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Strongly connected groups of at least two files (Tarjan 1972), largest first."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        number[node] = low[node] = len(number)
        stack.append(node)
        for other in graph[node]:
            if other not in number:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == number[node]:
            group: list[str] = []
            while not group or group[-1] != node:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for node in graph:
        if node not in number:
            visit(node)
    return sorted(found, key=len, reverse=True)


def folders(graph: Mapping[str, set[str]], packages: Collection[str] = ()) -> dict[str, set[str]]:
    """The graph of the files' folders; `packages` are names that are folders themselves (`__init__.py`)."""

    def folder(name: str) -> str:
        return name if name in packages else name.rpartition(".")[0]

    made: dict[str, set[str]] = {}
    for name, others in graph.items():
        made.setdefault(folder(name), set()).update(map(folder, others))
    return {here: {other for other in others if other != here} for here, others in made.items()}


@dataclass
class Measures:
    """Numbers by name, in the order of the output; and the files behind some of them."""

    numbers: dict[str, float] = field(default_factory=dict)
    behind: dict[str, list[str]] = field(default_factory=dict)


def measure(product: Product) -> Measures:
    """All measures that need only the files."""
    lengths = [source.lines for source in product.modules]
    lines = sum(source.lines for source in product.files.values())
    statements = [node for source in product.files.values() for node in source.imports]
    import_lines = sum((node.end_lineno or node.lineno) - node.lineno + 1 for node in statements)
    graph, packages = product.graph, {one.name for one in product.files.values() if not one.is_module}
    of_files, of_folders = circles(graph), circles(folders(graph, packages))
    importers = Counter(other for others in product.graph.values() for other in others)
    made = Measures()
    made.numbers |= {
        "modules": len(lengths),
        "lines": lines,
        "median lines of a module": statistics.median(lengths),
        f"modules below {SHORT} lines": sum(length < SHORT for length in lengths),
        "import lines, % of all": round(100 * import_lines / lines, 1),
        "comments per 1,000 lines": round(1000 * sum(one.comments() for one in product.files.values()) / lines, 1),
        "import circles, files": len(of_files),
        "files in them": sum(map(len, of_files)),
        "import circles, folders": len(of_folders),
        "folders in them": sum(map(len, of_folders)),
        "modules with one importer": sum(importers[source.name] == 1 for source in product.modules),
    }
    made.behind |= {"import circles, files": [" ".join(one) for one in of_files]}
    made.behind |= {"import circles, folders": [" ".join(one) for one in of_folders]}
    way = product.closure(product.defining(WAY))
    made.numbers["files to open: one row's way"] = len(way)
    made.behind["files to open: one row's way"] = sorted(way)
    for what, words in NAMED.items():
        found = product.naming(words)
        made.numbers[f"files to open: {what}"] = len(found)
        made.behind[f"files to open: {what}"] = [str(source.path) for source in found]
    return made


def by_the_book(page: Path, product: Product) -> dict[str, float]:
    """Modules named in each section of the page on extending; empty where there is no such page."""
    if not page.exists():
        return {}
    paths = {str(source.path) for source in product.modules}
    found = {}
    for section in page.read_text(encoding="utf-8").split("\n## ")[1:]:
        title = section.splitlines()[0].lower()
        for what in NAMED:
            if what.removeprefix("a ") in title:
                found[f"files to open: {what}, by the book"] = float(sum(path in section for path in paths))
    return found


def help_cost(root: Path, repeat: int) -> dict[str, float]:
    """CPU seconds of `--help` per script, the median of `repeat` rounds."""
    scripts = [
        path
        for package in ("pipelines", "tune")
        for path in sorted((root / package).glob("*.py"))
        if 'if __name__ == "__main__"' in path.read_text(encoding="utf-8")
    ]
    found = {}
    for script in scripts:
        times = []
        for _ in range(repeat):
            before = os.times()
            command = [sys.executable, str(script), "--help"]
            environment = {**os.environ, "PYTHONPATH": str(root)}
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=root, env=environment)
            after = os.times()
            times.append(after.children_user + after.children_system - before.children_user - before.children_system)
        found[f"--help of {script.relative_to(root)}, CPU s"] = round(statistics.median(times), 2)
    return found


def of_run(folder: Path) -> dict[str, float]:
    """Seconds of a run's last session and of its stages."""
    session = json.loads((folder / "session.json").read_text())
    found = {"run, s": round(session["beat"] - session["started"], 1)}
    for manifest in sorted(folder.glob("tables/*/*/manifest.json"), key=lambda file: file.stat().st_mtime):
        found[f"stage {manifest.parts[-3]}, s"] = round(json.loads(manifest.read_text())["seconds"], 1)
    return found


@contextmanager
def checkout(revision: str | None) -> Iterator[Path]:
    """This checkout, or a copy of it at a revision of git."""
    if revision is None:
        yield harness.ROOT
        return
    archive = subprocess.run(
        ["git", "-C", str(harness.ROOT), "archive", revision], check=True, capture_output=True
    ).stdout
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
        yield Path(folder)


def main() -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__)
    parser.add_argument("--revisions", nargs="+", help="of git, one column each; default: the files of this checkout")
    parser.add_argument("--help-cost", action="store_true", help="run --help of every script, too")
    parser.add_argument("--repeat", type=int, default=3, help="rounds of --help-cost; default: %(default)s")
    parser.add_argument("--run", type=Path, help="folder of a finished run (of this checkout)")
    parser.add_argument("--behind", help="list what is behind the counts whose name holds this")
    args = parser.parse_args()
    found: dict[str, Measures] = {}
    for revision in args.revisions or [None]:
        with checkout(revision) as root:
            product = Product.read(root)
            measures = measure(product)
            measures.numbers |= by_the_book(root / "docs" / "extending.md", product)
            if args.help_cost:
                measures.numbers |= help_cost(root, args.repeat)
        if args.run is not None:
            measures.numbers |= of_run(args.run)
        found[revision or "here"] = measures
    with harness.reporting(args) as report:
        names = dict.fromkeys(name for measures in found.values() for name in measures.numbers)
        table = report.table({"": "<48", **dict.fromkeys(found, ">12,g")})
        for name in names:
            table.row(name, *(measures.numbers.get(name) for measures in found.values()))
        for revision, measures in found.items():
            report.facts[revision] = measures.numbers
            for name, behind in measures.behind.items():
                if args.behind and args.behind in name:
                    report.say("\n  ".join([f"{name}, {revision}:", *behind]))


if __name__ == "__main__":
    main()
