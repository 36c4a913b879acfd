"""`--help`: what stands on which page, with which facts, at which width."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from fgvr.config import Config, ConfigError, load_config
from fgvr.config.base import Part
from fgvr.config.help import help_text, help_topic
from fgvr.config.tree import Basic, Tuned, branches, leaves

PRESETS = Path(__file__).parents[2] / "pipelines" / "configs"


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The width of pages that go to a file, whichever terminal runs the tests."""
    monkeypatch.setattr("fgvr.config.help.shutil.get_terminal_size", os.terminal_size)


def page(capsys: pytest.CaptureFixture[str], *argv: str, stage: str = "") -> str:
    """What a command line prints and ends with status 0."""
    with pytest.raises(SystemExit) as caught:
        load_config(argv, PRESETS, "What the script does.", stage=stage)
    assert caught.value.code == 0
    return capsys.readouterr().out


def flags(text: str) -> list[str]:
    """The fields that a page lists."""
    return [line.split()[0] for line in text.splitlines() if line.startswith("  --")]


def test_help_all_lists_every_field_with_its_default_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    text = page(capsys, "--help", "all")
    assert text.startswith("What the script does.")
    for leaf in leaves(Config):
        shown = f" {leaf.default}, and its fields:" if leaf.name.endswith(".kind") else "  ("
        assert f"--{leaf.name}{shown}" in text
    assert "--candidates.k  (int; default 3)\n      Number of nearest images, the image itself included" in text
    assert "--cluster.loopback  (true|false; default true)" in text
    assert "--embed.splits  (list of str or null; default null)" in text
    assert "--makd.backbone_args  (mapping; default {})" in text


def test_help_alone_is_short_and_grouped_by_stage(capsys: pytest.CaptureFixture[str]) -> None:
    text = page(capsys, "--help")
    shown = flags(text)
    assert {"--run.name", "--ingest.source.kind", "--mllm.kind", "--mllm.model", "--makd.epochs"} <= set(shown)
    assert 18 <= len(shown) <= 24  # whoever adds one asks which other people change less often
    parts = [flag.removeprefix("--").partition(".")[0] for flag in shown]
    order = [part for part in Config.model_fields if part in parts]
    assert parts == sorted(parts, key=order.index)
    heads = [line.partition(":")[0] for line in text.splitlines()]
    assert [head for head in heads if head in Config.model_fields] == order
    assert "Exit status: 0" in text
    assert "demo, dogs" in " ".join(text.split())


def test_help_of_a_stage_keeps_to_it_and_to_what_concerns_all(capsys: pytest.CaptureFixture[str]) -> None:
    parts = {flag.removeprefix("--").partition(".")[0] for flag in flags(page(capsys, "--help", stage="label"))}
    assert parts == {"run", "cluster", "ingest", "mllm", "clip", "label"}
    assert page(capsys, "--help", stage="full") == page(capsys, "-h")
    for part in Config.model_fields:
        assert len(flags(page(capsys, "--help", stage=part))) <= 24


def test_what_one_stage_is_tuned_by_stands_on_its_own_page_only(capsys: pytest.CaptureFixture[str]) -> None:
    tuned = {"--candidates.k", "--candidates.method"}
    assert tuned <= set(flags(page(capsys, "--help", stage="candidates")))
    assert not tuned & set(flags(page(capsys, "--help")))
    assert not tuned & set(flags(page(capsys, "--help", stage="label")))


def test_help_of_a_part_or_a_field(capsys: pytest.CaptureFixture[str]) -> None:
    text = page(capsys, "--help", "class-scores")
    assert text.startswith("class_scores: how likely")
    assert set(flags(text)) == {f"--{leaf.name}" for leaf in leaves(Config) if leaf.name.startswith("class_scores.")}
    assert flags(page(capsys, "--help=label.images")) == [
        f"--{leaf.name}" for leaf in leaves(Config) if leaf.name.startswith("label.images.")
    ]
    # A part inside a part has a title of its own, and what comes behind it stands apart.
    text = page(capsys, "--help", "questions")
    assert text.startswith("questions: yes/no questions about visual aspects")
    assert "\n\n  questions.llm: Language model that writes and ranks the questions" in text
    assert "in every run.\n  --questions.llm.seed" in text
    assert "\n\n  --questions.generate" in text
    assert page(capsys, "--help", "mllm.kind").startswith("  --mllm.kind  (vllm|openai|simulated; default vllm)")
    # With a value that a preset gives it, and the bounds that are checked.
    assert page(capsys, "--help", "makd.epochs") == (
        "  --makd.epochs  (int; default 240)\n"
        "      Passes over the training images; fewer train faster and less well. [at least 1; demo: 6]\n"
    )
    assert "[at least 1]" in page(capsys, "--config", "photos", "--help", "makd.epochs")
    # Of two kinds with the field, only the one that the preset has: demo draws its photos, a layout reads them.
    said = page(capsys, "--help", "ingest.source.train_per_class")
    assert (said.count("--ingest.source.train_per_class"), said.count("demo: 100")) == (2, 1)
    assert "demo: 100" in said.partition("Training drawings per species.")[2]
    assert "\n      No teacher: class targets alone. [the default]\n" in page(capsys, "--help", "makd.distillation")


@pytest.mark.parametrize(
    ("topic", "message"),
    [
        ("makt", r"--help makt: there is no such part or field; did you mean makd\?"),
        ("makd.epoch", r"did you mean makd\.epochs\?"),
        ("lr", r"did you mean near\.lr or heads\.lr or makd\.lr\?"),
        ("zebra", r"no such part or field \(--help all lists every field\)"),
    ],
)
def test_an_unknown_topic_names_the_nearest(topic: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(["--help", topic], PRESETS)


def test_help_does_not_need_the_file_of_the_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--run.name" in page(capsys, "--config", "not/yet.yaml", "--help")


@pytest.mark.parametrize(
    ("argv", "topic"),
    [
        ([], None),
        (["--run.name", "x"], None),
        (["--help"], ""),
        (["--run.name", "x", "-h"], ""),
        (["--help", "--run.name", "x"], ""),
        (["--help", "makd", "--run.name", "x"], "makd"),
        (["--help=all"], "all"),
    ],
)
def test_the_topic_stands_behind_the_flag(argv: list[str], topic: str | None) -> None:
    assert help_topic(argv) == topic


@pytest.mark.parametrize("width", [60, 140])
def test_texts_are_as_wide_as_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fgvr.config.help.shutil.get_terminal_size", lambda _: os.terminal_size((width, 24)))
    lengths = [len(line) for line in help_text("", PRESETS).splitlines() if line.startswith("      ")]
    assert width - 20 < max(lengths) <= width


def test_a_field_is_basic_where_it_and_all_parts_around_it_are_marked() -> None:
    class Leafs(Part):
        marked: Basic[int] = Field(default=1, ge=0, lt=3)
        tuned: Tuned[int] = 1
        plain: int = 1

    class One(Part):
        kind: Literal["one"] = "one"
        name: Basic[str] = "n"

    class Two(Part):
        kind: Literal["two"] = "two"

    class Stage(Part):
        shown: Basic[Leafs] = Leafs()
        hidden: Leafs = Leafs()
        lent: Tuned[Leafs] = Leafs()
        either: Basic[Annotated[One | Two, Field(discriminator="kind")]] = Two()
        none: One | None = None

    class Tree(Part):
        stage: Stage = Stage()
        every: Basic[Leafs] = Leafs()

    found = {leaf.name: leaf.kind for leaf in leaves(Tree) if leaf.basic}
    assert found == {"stage.shown.marked": "", "stage.either.name": "one", "every.marked": ""}
    assert {leaf.name for leaf in leaves(Tree) if leaf.tuned and not leaf.basic} == {
        *("stage.shown.tuned", "stage.lent.marked", "stage.lent.tuned", "every.tuned")
    }
    parts = {branch.name: (branch.kinds, branch.default_kind, branch.basic) for branch in branches(Tree)}
    assert parts["stage.either"] == (("one", "two"), "two", True)
    assert parts["stage.none"] == (("one",), "null", False)
    assert [name for name, (_, _, basic) in parts.items() if basic] == ["stage.shown", "stage.either", "every"]
