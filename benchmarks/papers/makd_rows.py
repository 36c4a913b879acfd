"""The tables of the MaKD paper as grids: what to train for each cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from fgvr.config.tree import merge

TOP1: Final = "top1"


@dataclass(frozen=True)
class Cell:
    """One number: what a method scores under changes of the config.

    Attributes:
        method: `makd` (with aspects), `base` (without), `mllm` or `detect`.
        changes: laid over the table's config.
        teacher: the student that teaches this one.
        metric: top-1, or one of COCO's for a detector.
    """

    method: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    teacher: Cell | None = None
    metric: str = TOP1


@dataclass(frozen=True)
class Gap:
    """The difference of two cells (second minus first), per seed."""

    base: Cell
    ours: Cell


@dataclass(frozen=True)
class Line:
    """A row of a table; `published` is its key in makd_published.yaml, "" for rows of our own."""

    label: str
    cells: tuple[Cell | Gap, ...]
    published: str = ""


@dataclass(frozen=True)
class Grid:
    """A table: its column heads and its rows."""

    heads: tuple[str, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Setting:
    """The settings that differ between data sets.

    Attributes:
        students: the paper's four places, ResNet18, ResNet34, MobileNet-V1 and EfficientNet, as timm's names.
        ablated: of these, the first so many in tables 2 and 3 and the figures.
        recipes: backbone → fields of `makd` that it is trained with, where the config's do not suit it.
        asked: numbers of questions for figure 2.
        taught: fields of `makd` for all students of tables 4 and 7, and for their teachers.
        ramp: epochs over which DKD's weight rises.
        detectors: backbones of table 6, as timm's names.
        other_questions: file of a second source of questions; "" for none.
        other_mllm: model of a second MLLM; "" for none.
    """

    students: tuple[str, str, str, str] = ("resnet18", "resnet34", "mobilenetv1_100", "efficientnet_b0")
    ablated: int = 4
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    asked: tuple[int, ...] = (10, 20, 30, 50)
    taught: Mapping[str, Any] = field(default_factory=dict)
    ramp: int = 20
    detectors: tuple[str, ...] = ("mobilenetv2_100", "resnet18", "resnet50")
    other_questions: str = ""
    other_mllm: str = ""


TITLES: Final = ("ResNet18", "ResNet34", "MobileNet-V1", "EfficientNet")
TINY: Final = ("test_byobnet", "test_resnet", "mobilenetv3_small_050", "test_efficientnet")
"""Students that one CPU core trains in a minute. They take the places of the paper's students, with other networks."""
SLOWER: Final = {"test_resnet": {"lr": 0.05}, "mobilenetv3_small_050": {"lr": 0.05}}
"""Of the rates 0.02, 0.05, 0.1 and the demo's 0.2 the best for these without aspects, on a field guide of seed 11."""
TAUGHT: Final = {"lr": 0.05, "epochs": 40}
"""KD and DKD multiply the loss by T² and more, which at the demo's rate of 0.2 does not train; seen at seed 11, too."""
FRACTIONS: Final = (0.4, 0.6, 0.8, 1.0)
ALPHAS: Final = (1.0, 4.0, 10.0, 50.0)


def grid(table: str, setting: Setting) -> Grid:
    """A table of the paper (`1` to `7`) or one of its figures (`fig2`, `fig3`)."""
    return GRIDS[table](setting)


def _named(title: str, backbone: str) -> str:
    return title if backbone.startswith(("resnet", "mobilenetv1", "efficientnet_b")) else backbone


def _students(setting: Setting, count: int | None = None) -> list[tuple[str, str]]:
    """(title, backbone): the paper's title where the backbone is the paper's."""
    named = [(_named(title, backbone), backbone) for title, backbone in zip(TITLES, setting.students, strict=True)]
    return named[: setting.ablated if count is None else count]


def _student(setting: Setting, method: str, backbone: str, **makd: Any) -> Cell:
    """`makd`: fields beside the recipe that the config or `setting` has for this backbone."""
    return Cell(method, {"makd": {"backbone": backbone, **setting.recipes.get(backbone, {}), **makd}})


def _pair(setting: Setting, backbone: str, **makd: Any) -> tuple[Cell, Cell, Gap]:
    base, ours = _student(setting, "base", backbone, **makd), _student(setting, "makd", backbone, **makd)
    return base, ours, Gap(base, ours)


def _table1(setting: Setting) -> Grid:
    lines = [
        Line(_named(title, backbone), _pair(setting, backbone), title)
        for title, backbone in zip(TITLES, setting.students, strict=True)
    ]
    return Grid(("Base", "Ours", "Gap"), (*lines, Line("MLLM", (Cell("mllm"),), "MLLM")))


def _by_student(setting: Setting, rows: Mapping[str, tuple[str, Mapping[str, Any]]], published: str = "") -> Grid:
    """One row per label (a method and its changes), one column per student."""
    students = _students(setting)
    lines = tuple(
        Line(
            label,
            tuple(_changed(_student(setting, method, name), changes) for _, name in students),
            label if label in published else "",
        )
        for label, (method, changes) in rows.items()
    )
    return Grid(tuple(title for title, _ in students), lines)


def _changed(cell: Cell, changes: Mapping[str, Any]) -> Cell:
    return replace(cell, changes=merge(dict(cell.changes), dict(changes)))


def _table2(setting: Setting) -> Grid:
    rows = {
        "KL": ("makd", {"makd": {"aspect_loss": "softmax_kl"}}),
        "KL of (p, 1 − p)": ("makd", {"makd": {"aspect_loss": "kl"}}),
        "Rand": ("makd", {"makd": {"aspect_targets": "random"}}),
        "Ours": ("makd", {}),
    }
    return _by_student(setting, rows, "KL Rand Ours")


def _table3(setting: Setting) -> Grid:
    rows: dict[str, tuple[str, Mapping[str, Any]]] = {"Base": ("base", {})}
    if setting.other_questions:
        rows["Ours (L)"] = ("makd", {"questions": {"file": setting.other_questions}})
    if setting.other_mllm:
        rows["Ours (M)"] = ("makd", {"mllm": {"model": setting.other_mllm}})
    return _by_student(setting, {**rows, "Ours": ("makd", {})}, "Base Ours (L) Ours (M) Ours")


def _table4(setting: Setting) -> Grid:
    resnet18, resnet34, mobilenet, efficientnet = setting.students
    pairs = ((resnet34, resnet18), (efficientnet, mobilenet))
    kd, dkd = {"kind": "kd"}, {"kind": "dkd", "warmup_epochs": setting.ramp}
    standard = {"kind": "kd", "standardise": True, "temperature": 2.0, "class_weight": 1.0, "weight": 9.0}

    def trained(method: str, backbone: str, **makd: Any) -> Cell:
        return _student(setting, method, backbone, **setting.taught, **makd)

    def line(label: str, method: str, distillation: dict[str, Any] | None, published: str = "") -> Line:
        if distillation is None:
            cells = [trained(method, student) for _, student in pairs]
        else:
            cells = [
                replace(trained(method, student, distillation=distillation), teacher=trained("base", teacher))
                for teacher, student in pairs
            ]
        return Line(label, tuple(cells), published)

    lines = (
        Line("teacher", tuple(trained("base", teacher) for teacher, _ in pairs), "teacher"),
        line("Base", "base", None, "Base"),
        line("KD", "base", kd, "KD"),
        line("DKD", "base", dkd, "DKD"),
        line("KD, standardised", "base", standard),
        line("Ours", "makd", None),
        line("Ours + KD", "makd", kd, "Ours + KD"),
        line("Ours + DKD", "makd", dkd, "Ours + DKD"),
        line("Ours + KD, standardised", "makd", standard),
    )
    names = dict(zip(setting.students, TITLES, strict=True))
    heads = tuple(f"{_named(names[t], t)} → {_named(names[s], s)}" for t, s in pairs)
    return Grid(heads, lines)


def _table5(setting: Setting) -> Grid:
    student = setting.students[0]
    lines = [Line(f"{share:.0%}", _pair(setting, student, fraction=share), f"{share:.0%}") for share in FRACTIONS]
    return Grid(("Base", "Ours", "Gap"), tuple(lines))


def _table6(setting: Setting) -> Grid:
    metrics = ("AP", "AP50", "AP75")
    lines = []
    for name in setting.detectors:
        title = {"mobilenetv2_100": "MobileNet-V2", "resnet18": "ResNet18", "resnet50": "ResNet50"}.get(name, name)
        for label, detect in (("base", {"alpha": 0.0}), ("ours", {})):
            changes = {"detect": {"model": {"backbone": name}, **detect}}
            cells = tuple(Cell("detect", changes, metric=metric) for metric in metrics)
            lines.append(Line(f"{title}, {label}", cells, f"{title}, {label}"))
    return Grid(metrics, tuple(lines))


def _table7(setting: Setting) -> Grid:
    students = _students(setting, 2)
    names = [name for _, name in students]
    kd = {"kind": "kd", "teacher": "mllm"}
    lines = (
        Line("Base", tuple(_student(setting, "base", name, **setting.taught) for name in names), "Base"),
        Line("KD", tuple(_student(setting, "base", name, **setting.taught, distillation=kd) for name in names), "KD"),
        Line("Ours", tuple(_student(setting, "makd", name, **setting.taught) for name in names), "Ours"),
        Line("MLLM", (Cell("mllm"),), "MLLM"),
    )
    return Grid(tuple(title for title, _ in students), lines)


def _figure2(setting: Setting) -> Grid:
    return _figure(setting, {f"Q = {count}": {"questions": count} for count in setting.asked})


def _figure3(setting: Setting) -> Grid:
    return _figure(setting, {f"α = {alpha:g}": {"alpha": alpha} for alpha in ALPHAS})


def _figure(setting: Setting, points: Mapping[str, Mapping[str, Any]]) -> Grid:
    """One row per student: without aspects, and with them at each point (fields of `makd`) of the figure's axis."""
    lines = tuple(
        Line(
            title,
            (_student(setting, "base", name), *(_student(setting, "makd", name, **point) for point in points.values())),
        )
        for title, name in _students(setting)
    )
    return Grid(("Base", *points), lines)


GRIDS: Final = {
    "1": _table1,
    "2": _table2,
    "3": _table3,
    "4": _table4,
    "5": _table5,
    "6": _table6,
    "7": _table7,
    "fig2": _figure2,
    "fig3": _figure3,
}
