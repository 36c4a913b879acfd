"""The grids of MaKD's tables: configs that can be built, the paper's numbers beside ours, gaps seed by seed."""

import statistics

import pytest

from benchmarks.papers import makd_tables
from benchmarks.papers.makd_rows import GRIDS, SLOWER, TAUGHT, TINY, TOP1, Cell, Gap, Setting, grid
from benchmarks.papers.makd_runs import StudentRuns
from benchmarks.papers.near_runs import Measured
from fgvr.config import build
from fgvr.config.load import read_preset
from fgvr.config.tree import merge
from pipelines.command import PRESETS

SETTING = Setting(other_questions="questions.txt", other_mllm="llava-hf/llava-v1.6-34b-hf")


@pytest.mark.parametrize("table", GRIDS)
@pytest.mark.parametrize("setting", [SETTING, Setting(TINY, 2, SLOWER, taught=TAUGHT)])
def test_every_cell_is_a_config(table, setting):
    shown = grid(table, setting)
    tree = read_preset("cars", PRESETS)
    for line in shown.lines:
        assert len(line.cells) <= len(shown.heads)
        for cell in line.cells:
            for one in (cell.base, cell.ours) if isinstance(cell, Gap) else (cell,):
                changes = dict(one.changes)
                if one.teacher is not None:
                    changes = merge(changes, {"makd": {"distillation": {"teacher": "runs/teacher"}}})
                if one.method != "detect":
                    changes = merge(changes, {"evaluate": {"methods": [one.method]}})
                config = build(merge(tree, changes))
                assert (config.makd.distillation.kind != "none") >= (one.teacher is not None)


@pytest.mark.parametrize("table", ["1", "2", "3", "4", "5", "7"])
def test_the_papers_rows_are_rows_of_ours(table):
    rows = {line.published: line for line in grid(table, SETTING).lines}
    for data_set in ("cars", "caltech101"):
        for name, numbers in makd_tables.published(table, data_set).items():
            assert len(numbers) == sum(isinstance(cell, Cell) for cell in rows[name].cells)


def test_the_papers_detectors_are_those_of_table_6():
    rows = [line.published for line in grid("6", SETTING).lines]
    assert rows == list(makd_tables.published("6", "coco"))


def test_the_papers_numbers_agree_among_its_tables():
    """ResNet18 on Cars stands in five of them."""
    assert makd_tables.published("1", "cars")["ResNet18"] == makd_tables.published("5", "cars")["100%"]
    assert makd_tables.published("2", "cars")["Ours"] == makd_tables.published("3", "cars")["Ours"]
    assert [row[0] for row in makd_tables.published("1", "cars").values()][1:] == makd_tables.published("3", "cars")[
        "Base"
    ]
    assert makd_tables.published("4", "caltech101")["Base"][0] == makd_tables.published("7", "caltech101")["Base"][0]


class Known(StudentRuns):
    """Accuracies that are given."""

    def __init__(self):
        super().__init__({}, None)
        self.asked = 0

    def _student(self, cell, seed):
        self.asked += 1
        return Measured({TOP1: 50.0 + seed + (10 * seed if cell.method == "makd" else 0)})


def test_a_gap_is_taken_seed_by_seed():
    shown, runs = grid("1", SETTING), Known()
    found = runs.measure_lines(shown.lines, [0, 1, 2])
    base, ours, gap = ([one.values[TOP1] for one in cell] for cell in found[0])
    assert base == [50, 51, 52]
    assert ours == [50, 61, 72]
    assert gap == [0, 10, 20]  # 10 ± 10; the deviations of base and ours say another thing
    assert statistics.stdev(gap) == 10
    assert runs.asked == 3 * 9  # four students twice and the MLLM; gaps train nothing
    text = " ".join(makd_tables.text_of("Table 1, cars", shown, found, makd_tables.published("1", "cars")).split())
    assert "| ResNet18 | 51.0 ± 1.0 | 61.0 ± 11.0 | 10.0 ± 10.0 |" in text
    assert "| · paper | 77.53 | 83.38 | +5.85 |" in text


def test_a_cell_that_failed_gives_its_reason():
    shown = grid("5", SETTING)
    bad = Measured(reason="there is no such MLLM")
    found = [[[Measured({TOP1: 1.0})], [bad], [bad]] for _ in shown.lines]
    assert "| 40% | not run: there is no such MLLM |" in " ".join(makd_tables.text_of("t", shown, found, {}).split())
