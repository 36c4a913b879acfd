"""The NeaR paper's tables, computed by the pipeline: mean ± standard deviation over seeds, with the paper's numbers.

    python -m benchmarks.papers.near_tables --table 2                       # the drawn field guide, seeds 0 1 2
    python -m benchmarks.papers.near_tables --table fig2 --shots 1 3 10
    python -m benchmarks.papers.near_tables --table 2 --config grocery      # after benchmarks/grocery/models.py
    python -m benchmarks.papers.near_tables --table 2 --config cub --set ingest.source.path=/data/CUB_200_2011

`--table 1` hours and US$ of 10,000 images, `2` all methods, `3` Random-CS against nearest neighbours, `4` sets that
the MLLM lists, `fig2` the number of shots, `ours` other candidate sets and losses, `asked` fewer answers, about images
that are drawn or chosen. A config is `demo`, `grocery` (tiny models of its own on real photos), a preset of
pipelines/configs or a YAML file; of several, their average comes last.
`--out` holds one run folder per config. Finished results are reused, so an interrupted table is continued, and a row
that differs only in NeaR's settings does not ask the MLLM. A method that cannot run on a data set says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.grocery.halves import grocery_tree
from benchmarks.grocery.photos import data_folder
from benchmarks.papers.data_sets import (
    OwnModel,
    changed,
    demo_models,
    ending_in_words,
    grocery_models,
    preset,
    table_parser,
)
from benchmarks.papers.experts import answering
from benchmarks.papers.near_print import FIVE, average, cost_table, draw, scores_table
from benchmarks.papers.near_rows import TABLES, Row
from benchmarks.papers.near_runs import DataSetRuns, Measured, open_data_set
from cluster.console import show_progress
from cluster.session import ray_session
from fgvr.config import build
from fgvr.config.data import FieldGuideSource, LayoutSource
from fgvr.config.model_names import DEMO_MODEL
from fgvr.config.models import VllmBackend
from fgvr.config.tree import merge

EXPERTS_PORT = 8123
"""Always the same: a server's address is part of what its answers are known by."""


@dataclass(frozen=True)
class DataSet:
    """A config of the command line.

    Attributes:
        name: of its run folder and in titles.
        tree: the config.
        known_as: the data set's name in the paper's tables; "" where it is none of theirs.
        expert: the stand-in for FineR's language model; "" where there is none.
        own: for some methods or rows the model that they ask instead of the config's.
    """

    name: str
    tree: dict[str, Any]
    known_as: str
    expert: str = ""
    own: dict[str, OwnModel] = field(default_factory=dict)


def find_data_set(name: str, out: Path, models: Path, changes: Sequence[str]) -> DataSet:
    """Read a config; raises UserError where there is none, or `grocery` has no models."""
    tree = grocery_tree(data_folder(), models, out) if name == "grocery" else preset(name)
    tree = changed(tree, changes)
    if name == "grocery":
        return DataSet(name, tree, "", "grocer", grocery_models(models))
    config = build(tree)
    source = config.ingest.source
    if isinstance(source, FieldGuideSource):
        own = demo_models() if isinstance(config.mllm, VllmBackend) and config.mllm.model == DEMO_MODEL else {}
        return DataSet(Path(name).stem, tree, "", "ornithologist", own)
    return DataSet(Path(name).stem, tree, source.name if isinstance(source, LayoutSource) else "")


def with_expert(data_set: DataSet, address: str) -> DataSet:
    """The data set with the stand-in for FineR's language model, if its config names none."""
    config = build(data_set.tree)
    if not data_set.expert or config.baselines.finer.llm is not None or config.questions.llm is not None:
        return data_set
    llm = {"kind": "openai", "model": data_set.expert, "base_url": address}
    return replace(data_set, tree=merge(data_set.tree, {"baselines": {"finer": {"llm": llm}}}))


def measure(
    runs: DataSetRuns, rows: Sequence[Row], seeds: Sequence[int], shots: int | None = None
) -> list[list[Measured]]:
    """Each row at each seed. Seed by seed, since what the rows of a seed share is computed once."""
    changes = {} if shots is None else {"label": {"images": {"per_class": shots}}}
    by_seed = [[runs.measure(row, seed, changes) for row in rows] for seed in seeds]
    return [list(of_row) for of_row in zip(*by_seed, strict=True)]


def tables(sets: Sequence[DataSet], table: str, seeds: Sequence[int], out: Path) -> Iterator[str]:
    """The table of each data set, then of their average."""
    rows = TABLES[table]
    found: list[list[list[Measured]]] = []
    for data_set in sets:
        with open_data_set(data_set.tree, data_set.name, str(out), data_set.own) as runs:
            found.append(measure(runs, rows, seeds))
        title = f"Table {table}, {data_set.name}"
        if table == "1":
            yield cost_table(title, rows, found[-1])
        else:
            yield scores_table(title, table, rows, found[-1], data_set.known_as)
    if len(sets) > 1 and table != "1":
        means = [average([of_set[place] for of_set in found]) for place in range(len(rows))]
        known_as = "average" if {data_set.known_as for data_set in sets} == FIVE else ""
        yield scores_table(f"Table {table}, average", table, rows, means, known_as)


def figures(sets: Sequence[DataSet], shots: Sequence[int], seeds: Sequence[int], out: Path) -> Iterator[str]:
    """Figure 2 of each data set: a table for each number of shots, and all of them drawn."""
    rows = TABLES["fig2"]
    for data_set in sets:
        found = {}
        with open_data_set(data_set.tree, data_set.name, str(out), data_set.own) as runs:
            for count in shots:
                found[count] = measure(runs, rows, seeds, count)
                yield scores_table(f"m = {count}, {data_set.name}", "2", rows, found[count], "")
        file = out / f"fig2-{data_set.name}.svg"
        draw(file, data_set.name, rows, found)
        yield f"figure: {file}\n"


def main(arguments: list[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = table_parser(__doc__, TABLES, "runs/near_tables")
    parser.add_argument("--shots", nargs="+", type=int, default=list(range(1, 11)), help="of fig2; default: 1 to 10")
    args = parser.parse_args(arguments)
    show_progress()
    out = args.out.expanduser().absolute()
    with ending_in_words(), harness.reporting(args) as report:
        sets = [find_data_set(name, out, args.models.expanduser(), args.set) for name in args.config]
        with ray_session(build(sets[0].tree).cluster), answering(EXPERTS_PORT) as address:
            sets = [with_expert(one, address) for one in sets]
            fig2 = args.table == "fig2"
            for text in (
                figures(sets, args.shots, args.seeds, out) if fig2 else tables(sets, args.table, args.seeds, out)
            ):
                report.say(text)


if __name__ == "__main__":
    main()
