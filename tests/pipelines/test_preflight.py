import runpy
import sys
from pathlib import Path

import pytest

from fgvr.config import Config, ConfigError, build
from fgvr.errors import UserError
from pipelines import preflight
from pipelines.evaluate import whole_job
from pipelines.preflight import check_splits, check_tables
from pipelines.registry import stage_of
from pipelines.run_tables import Look, Run, closure
from pipelines.stage import Stage
from tests.pipelines.stage_prints import Asking, made_light
from tests.untracked import NoTracking

FOLDER = {"kind": "folder", "path": "."}
PIPELINES = Path(__file__).parents[2] / "pipelines"
NO_TEACHER = ["--makd.distillation.kind", "kd", "--makd.distillation.teacher", "/no/such"]
CUB = {"kind": "layout", "name": "cub", "path": "data/CUB_200_2011"}


def check(config: Config) -> None:
    """What full.py looks for."""
    preflight.check(config)
    check_tables(config, [*whole_job(config), "report"])


def stages(config: Config) -> list[Stage]:
    names = closure(Look.of(config), [*whole_job(config), "report"])
    return [stage_of(name) for name in names]


def test_the_demo_passes() -> None:
    check(build({}))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"mllm": {"model": "/no/such/model"}}, "mllm.model"),
        ({"clip": {"model": "ViT-Z-99"}}, "clip.model"),
        ({"makd": {"backbone": "resnet1"}}, "makd.backbone"),
        ({"ingest": {"source": FOLDER}}, "questions.file"),
        ({"ingest": {"source": {"kind": "folder", "path": "/no/such/photos"}}}, "ingest.source.path"),
        ({"ingest": {"source": FOLDER}, "label": {"images": {"per_class": 5}}}, "label.images.per_class"),
        ({"questions": {"file": "/no/such/file.txt"}}, "questions.file"),
        ({"evaluate": {"split": "train"}}, "label.images.split"),
        ({"makd": {"split": "test"}}, "makd.split"),
        ({"aspects": {"split": "test"}}, "aspects.split = test: the student learns on makd.split = train"),
        ({"label": {"images": {"split": "test"}}}, "label.images.split"),
        ({"makd": {"split": "test"}, "label": {"images": {"legacy_discovery_split": True}}}, "makd.split"),
        ({"ingest": {"source": CUB}}, r"ingest.source.path = data/CUB_200_2011: there is no such folder; the official"),
        ({"infer": {"model": "/no/such/model"}}, r"infer.model = /no/such/model: it has no"),
        ({"evaluate": {"sentence_model": "/no/such/bert"}}, "evaluate.sentence_model"),
        (
            {"evaluate": {"methods": ["zs_wordnet"]}, "baselines": {"wordnet": {"path": "/no/such/index"}}},
            "baselines.wordnet.path: .*wordnet-base",
        ),
        (
            {"evaluate": {"methods": ["cased"]}, "baselines": {"cased": {"captions": "/no/such.csv"}}},
            "baselines.cased.captions",
        ),
        ({"evaluate": {"prices": "/no/such/prices.yaml"}}, "evaluate.prices: there is no file .*`shipped`"),
        ({"label": {"aliases": "/no/such/aliases.csv"}}, "label.aliases"),
        ({"evaluate": {"methods": ["finer"]}}, "baselines.finer.llm: the method finer needs"),
        (
            {"evaluate": {"methods": ["finer"]}, "baselines": {"finer": {"llm": {"kind": "vllm", "model": "/no/llm"}}}},
            "/no/llm",
        ),
        (
            {
                "evaluate": {"methods": ["cased"]},
                "ingest": {"source": FOLDER},
                "label": {"images": {"per_class": None}},
                "questions": {"llm": {"kind": "vllm", "model": "demo"}},
            },
            "baselines.cased.captions: the method cased needs",
        ),
        (
            {
                "questions": {"llm": {"kind": "vllm", "model": "demo"}},
                "aspects": {"with_labels": True},
                "makd": {"target": "near"},
            },
            "aspects.with_labels: .* set questions.file",
        ),
        ({"label": {"merge_model": "/no/such/bert", "merge_similarity": 0.9}}, "label.merge_model"),
    ],
)
def test_what_cannot_work_is_refused_by_the_field_s_name(values: dict[str, object], named: str) -> None:
    with pytest.raises(UserError, match=named):
        check(build(values))


def test_stages_that_look_alike_are_each_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fgvr.baselines.vocabularies.read_nouns", lambda _: ["gull"])
    of_folder = {"ingest": {"source": FOLDER}, "evaluate": {"methods": ["zs_wordnet", "cased"]}}
    with pytest.raises(UserError, match=r"baselines\.cased\.captions"):
        check_tables(build(of_folder), ["report"])


def test_without_merging_no_text_model_is_needed() -> None:
    check(build({"label": {"merge_model": "/no/such/bert", "merge_similarity": None}}))
    check(build({"label": {"merge_model": "/no/such/bert"}}))


def test_own_photos_with_own_questions_pass(tmp_path: Path) -> None:
    questions = tmp_path / "questions.txt"
    questions.write_text("Is it red?\nIs it round?\n")
    check(build({"ingest": {"source": FOLDER}, "questions": {"file": str(questions)}}))


def test_the_legacy_discovery_set_may_be_of_the_evaluation_split() -> None:
    check(build({"label": {"images": {"legacy_discovery_split": True}}}))


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        ({"label": {"images": {"split": "trian"}}}, ["label.images.split = trian"]),
        ({"makd": {"split": "a"}, "aspects": {"split": "b"}}, ["aspects.split = b", "makd.split = a"]),
        ({"infer": {"split": "c"}, "embed": {"splits": ["train", "d"]}}, ["embed.splits = d", "infer.split = c"]),
    ],
)
def test_a_split_that_is_not_there_is_named_with_those_that_are(values: dict[str, object], wrong: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_splits(build(values), {"train": 9, "test": 5}, stages(build(values)))
    lines = [f"{field}: no image is in this split (there are: test, train)" for field in wrong]
    assert str(caught.value).splitlines() == lines


def test_evaluation_may_have_no_split_of_its_own_but_says_so(caplog: pytest.LogCaptureFixture) -> None:
    check_splits(build({}), {"train": 9, "test": 5}, stages(build({})))
    assert not caplog.records
    config = build({"evaluate": {"split": "tset"}})
    check_splits(config, {"train": 9, "test": 5}, stages(config))
    assert "evaluate.split = tset: no image is in this split (there are: test, train)" in caplog.text


def test_a_download_that_lacks_a_listing_file_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "images.txt").write_text("1 a.jpg\n")
    with pytest.raises(UserError, match=r"classes.txt is missing; the official download of CUB-200-2011"):
        check(build({"ingest": {"source": {**CUB, "path": str(tmp_path)}}}))


KEYLESS = ["--mllm.kind", "openai", "--mllm.model", "m", "--mllm.api_key_env", "NO_SUCH_KEY"]


@pytest.mark.parametrize(
    ("script", "flags", "named"),
    [
        ("evaluate", ["--evaluate.methods", "[finer]"], "baselines.finer.llm"),
        ("infer", ["--infer.model", "/no/such/model"], "infer.model"),
        ("evaluate", NO_TEACHER, "distillation.teacher = /no/such"),
        ("infer", NO_TEACHER, "distillation.teacher = /no/such"),
        ("makd", NO_TEACHER, "distillation.teacher = /no/such"),
        ("class_scores", ["--mllm.kind", "openai", "--mllm.model", "m"], "mllm.kind = openai"),
        *(
            (script, ["--ingest.source.kind", "folder", "--ingest.source.path", "/no/such/photos"], "there is nothing")
            for script in ("label", "aspects", "embed", "candidates", "near", "makd", "infer", "evaluate", "questions")
        ),
        *((script, KEYLESS, "NO_SUCH_KEY is not set") for script in ("label", "aspects", "near", "full")),
        ("label", ["--label.aliases", "/no/such.csv"], "label.aliases"),
        ("near", ["--mllm.model", "/no/such/model"], "/no/such/model"),
        ("aspects", ["--questions.file", "/no/such.txt"], "questions.file"),
    ],
)
def test_a_stage_s_script_refuses_what_it_lacks_before_the_run_is_opened(
    script: str,
    flags: list[str],
    named: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)  # where there is no runs/demo of somebody who has tried the demo

    def opened(_config: object) -> None:
        raise AssertionError("the run was opened")

    monkeypatch.setattr("cluster.run.open_run", opened)
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *flags])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(PIPELINES / f"{script}.py"), run_name="__main__")
    assert ended.value.code == 2
    assert named in capsys.readouterr().err


def test_methods_that_ask_questions_need_some() -> None:
    of_folder = {"ingest": {"source": FOLDER}}
    check_tables(build({**of_folder, "evaluate": {"methods": ["zs_clip", "near", "base"]}}), ["report"])
    with pytest.raises(ConfigError, match=r"questions\.file"):
        check_tables(build({**of_folder, "evaluate": {"methods": ["near", "makd"]}}), ["report"])


@pytest.mark.parametrize(
    ("tables", "asked"),
    [(["report"], {"answers", "aspects", "eval_mllm_answers"}), (["predictions"], {"answers", "aspects"})],
)
def test_a_script_of_its_own_asks_before_the_trainings_that_its_table_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tables: list[str], asked: set[str]
) -> None:
    made_light(monkeypatch)
    monkeypatch.setattr("cluster.capacity.check_all", lambda _: None)
    monkeypatch.setattr("pipelines.estimate.tell_bill", lambda *_: None)
    config = build({"makd": {"target": "near"}, "evaluate": {"methods": ["mllm", "near", "makd"]}})
    context = Asking(config, str(tmp_path), NoTracking())
    made = preflight.compute(Run(context), tables)
    order = [table.name for table in context.tables]
    assert made == [context.tables[-1]]
    assert len(set(order)) == len(order)  # each once
    trained = [order.index(name) for name in ("near", "makd")]
    assert {name for name in order if stage_of(name).model(config) is not None} == asked
    assert all(order.index(name) < min(trained) for name in asked)
