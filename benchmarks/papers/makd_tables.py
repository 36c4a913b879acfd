"""The MaKD paper's tables, computed by the pipeline: top-1, mean ± standard deviation over seeds, with the paper's.

    python -m benchmarks.papers.makd_tables --table 1                       # the drawn field guide, seeds 0 1 2
    python -m benchmarks.papers.makd_tables --table 5 --config grocery      # after benchmarks/grocery/models.py
    python -m benchmarks.papers.makd_tables --table 1 --config cars --set ingest.source.path=/data/stanford_cars

`--table 1` all students with and without aspects, `2` the aspect loss, and random targets, `3` questions and MLLM of
another source, `4` with a teacher (KD, DKD), `5` less training data, `6` a detector's COCO metrics, `7` the MLLM's
class logits as the teacher, `fig2` the number of questions, `fig3` α. A config is `demo` (for `6` drawn scenes),
`grocery` (its MLLM has learned yes/no questions on `train` and `val`), a preset of pipelines/configs or a YAML file.
Presets train the paper's students and detectors, `demo` and `grocery` tiny ones. `--out` holds all results; finished
ones are reused, so an interrupted table is continued.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks import harness
from benchmarks.grocery.photos import data_folder
from benchmarks.harness import Line, markdown, mean_and_deviation
from benchmarks.papers.data_sets import (
    OwnModel,
    changed,
    ending_in_words,
    grocery_models,
    preset,
    table_parser,
)
from benchmarks.papers.makd_rows import GRIDS, SLOWER, TAUGHT, TINY, TOP1, Cell, Grid, Setting, grid
from benchmarks.papers.makd_rows import Line as Row
from benchmarks.papers.makd_runs import open_students
from benchmarks.papers.near_runs import Measured
from cluster.console import show_progress
from cluster.session import ray_session
from fgvr.config import build
from fgvr.config.data import BirdScenesSource, CocoSource, FieldGuideSource, LayoutSource
from fgvr.demo.questions import QUESTIONS

PUBLISHED = Path(__file__).with_name("makd_published.yaml")


@dataclass(frozen=True)
class DataSet:
    """A config of the command line.

    Attributes:
        name: of its run folder and in titles.
        tree: the config.
        setting: students and the like.
        known_as: the data set's name in the paper's tables; "" where it is none of theirs.
        own: for some methods the model that they ask instead of the config's.
    """

    name: str
    tree: dict[str, Any]
    setting: Setting
    known_as: str = ""
    own: Mapping[str, OwnModel] = field(default_factory=dict)


def find_data_set(name: str, args: argparse.Namespace, out: Path) -> DataSet:
    """Read a config; raises UserError where there is none, or `grocery` has no models."""
    questions, mllm = args.other_questions or "", args.other_mllm or ""
    if args.table == "6" and name == "demo":
        name = "scenes"
    if name == "grocery":
        tree, own = grocery_students(data_folder(), args.models.expanduser(), out)
    else:
        tree, own = preset(name), {}
    tree = changed(tree, args.set)
    source = build(tree).ingest.source
    if isinstance(source, FieldGuideSource):
        questions = questions or every_other_question(out)
    if isinstance(source, BirdScenesSource):
        setting = Setting(detectors=(build(tree).detect.model.backbone,))
    elif isinstance(source, FieldGuideSource) or name == "grocery":
        setting = Setting(TINY, 2, SLOWER, (8, 16, 24), TAUGHT, ramp=3, other_questions=questions, other_mllm=mllm)
    else:
        setting = Setting(other_questions=questions, other_mllm=mllm)
    known_as = "coco" if isinstance(source, CocoSource) else ""
    if isinstance(source, LayoutSource) and name != "grocery":
        known_as = source.name
    return DataSet(Path(name).stem, tree, setting, known_as, own)


def every_other_question(out: Path) -> str:
    """A second source of questions for the field guide: one that thought of half of them."""
    file = out / "field-guide-other-questions.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{question.text}\n" for question in QUESTIONS[1::2]))
    return str(file)


def grocery_students(data: Path, models: Path, out: Path) -> tuple[dict[str, Any], dict[str, OwnModel]]:
    """Students of the Grocery Store's photos: learn on `train`, test on `test`; the demo's recipe.

    Raises:
        UserError: the tiny MLLM that answers questions has not been trained yet.
    """
    from benchmarks.grocery.questions import read_table

    teacher = grocery_models(models)["finer"].tree()  # learned the questions
    questions = out / "grocery-questions.txt"
    questions.parent.mkdir(parents=True, exist_ok=True)
    questions.write_text("".join(f"{text}\n" for text in read_table().texts))
    recipe = preset("demo")["makd"]
    tree = {
        "ingest": {"source": {"kind": "layout", "name": "grocery", "path": str(data)}},
        "questions": {"file": str(questions)},
        "label": {"images": {"max_images": 100}},
        "mllm": {"kind": "vllm", **teacher["mllm"]},
        "makd": recipe,
        "cluster": {"num_cpus": 2},
    }
    naming = OwnModel(models / "mllm", f"python -m benchmarks.grocery.models --model mllm --out {models}")
    return tree, {"mllm": naming}


def text_of(
    title: str, shown: Grid, found: Sequence[Sequence[Sequence[Measured]]], published: Mapping[str, Any]
) -> str:
    """A table: each row over its seeds, and under it what the paper has."""
    lines = []
    for row, cells in zip(shown.lines, found, strict=True):
        lines.append(our_line(row, cells, len(shown.heads)))
        if numbers := published.get(row.published):
            lines.append(paper_line(numbers, shown.heads))
    return markdown(title, list(shown.heads), lines)


def our_line(row: Row, cells: Sequence[Sequence[Measured]], columns: int) -> Line:
    """A row over its seeds; the reason instead of numbers where a cell has none."""
    reasons = [one.reason for cell in cells for one in cell if one.reason]
    if reasons:
        return Line(row.label, across=f"not run: {reasons[0]}")
    texts = [
        mean_and_deviation([one.values[asked.metric if isinstance(asked, Cell) else TOP1] for one in cell])
        for asked, cell in zip(row.cells, cells, strict=True)
    ]
    return Line(row.label, (*texts, *[""] * (columns - len(texts))))


def paper_line(numbers: Sequence[float], heads: Sequence[str]) -> Line:
    """The paper's numbers, with the gap where the table has one."""
    texts = [f"{number:.2f}" for number in numbers]
    if heads[-1] == "Gap" and len(numbers) > 1:
        texts.append(f"{numbers[1] - numbers[0]:+.2f}")
    return Line("· paper", (*texts, *[""] * (len(heads) - len(texts))))


def published(table: str, known_as: str) -> dict[str, Any]:
    """The paper's numbers for a data set: row → columns; empty where it has none."""
    tables: dict[str, dict[str, Any]] = yaml.safe_load(PUBLISHED.read_text())
    return dict(tables.get(f"table{table}", {}).get(known_as, {}))


def main(arguments: list[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = table_parser(__doc__, GRIDS, "runs/makd_tables")
    parser.add_argument("--other-questions", help="file of another source's questions, for table 3")
    parser.add_argument("--other-mllm", help="folder or name of another MLLM, for table 3")
    args = parser.parse_args(arguments)
    show_progress()
    out = args.out.expanduser().absolute()
    with ending_in_words(), harness.reporting(args) as report:
        sets = [find_data_set(name, args, out) for name in args.config]
        with ray_session(build(sets[0].tree).cluster):
            for data_set in sets:
                shown = grid(args.table, data_set.setting)
                with open_students(data_set.tree, data_set.name, str(out), data_set.own) as runs:
                    found = runs.measure_lines(shown.lines, args.seeds)
                title = f"Table {args.table}, {data_set.name}"
                report.say(text_of(title, shown, found, published(args.table, data_set.known_as)))


if __name__ == "__main__":
    main()
