"""kind_answers and parents: what is asked, the tree in use from every source, and what decides and measures in it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cluster.part_actor import PartJob, compute_part
from cluster.parts import IDS
from cluster.stage import StageFolder, StageSummary
from fgvr import schemas, storage, tables
from fgvr.config import Config, ConfigError, build
from fgvr.failures import Failures
from fgvr.hierarchy.kinds import KindsError, read_kinds
from fgvr.mllm.backend import Answer
from fgvr.mllm.kind_worker import KindWorker
from fgvr.schemas import Failure, Reason
from fgvr.tables import Table
from pipelines.asks import asks
from pipelines.kinds import by_level
from pipelines.parents import KindAnswers, Parents, run_names
from pipelines.photo_counts import Photos
from pipelines.registry import stage_of
from pipelines.run_tables import Look, Run
from tests.pipelines.planted_run import CLASSES, TEST, TRAIN, config_of, planted, run_of

SAID: Mapping[str, str] = {
    "auk": "Seabirds",
    "booby": "seabird",
    "crane": "wader",
    "dipper": "I cannot help with that.",
    "seabird": "bird",
    "Seabirds": "bird",
    "wader": "Bird",
}
ASKED = {"source": "mllm", "llm": {"kind": "openai", "model": "m", "base_url": "http://localhost:1/v1"}}


class Says:
    """Answers what is known, and "none" to everything else."""

    def __init__(self, known: Mapping[str, str | Answer]) -> None:
        self.known, self.asked = known, list[str]()

    def generate(self, conversations: list[Any], _: object) -> list[Answer]:
        texts = [each[0]["content"][0]["text"].rpartition("Kind: ")[2] for each in conversations]
        self.asked += texts
        found = [self.known.get(text, "none") for text in texts]
        return [Answer(each, None, 10, 3) if isinstance(each, str) else each for each in found]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Table], np.ndarray]:
    return planted(tmp_path_factory.mktemp("given"))


@pytest.fixture
def asking(monkeypatch: pytest.MonkeyPatch) -> Says:
    """A language model in place of the stage's workers."""
    backend = Says(SAID)

    def in_this_process(folder: StageFolder, job: PartJob, ids: np.ndarray, _: str) -> StageSummary:
        rows = job.samples.take(ids, list(job.columns))
        return folder.write_table(KindWorker(job.arguments["settings"], backend).process(rows).cast(job.schema))

    monkeypatch.setattr(StageFolder, "run_parts", in_this_process)
    return backend


def test_the_tree_that_the_model_says(given, tmp_path: Path, asking: Says, caplog) -> None:
    run = run_of(given, tmp_path, hierarchy=ASKED)
    table = run.table("parents")
    assert asking.asked == [*CLASSES, "never said", "Seabirds", "wader"]
    rows = {row["name"]: row for row in table.read().to_pylist()}
    assert {name: (row["parent"], row["depth"], row["level"]) for name, row in rows.items()} == {
        "bird": (None, 1, "level 1"),
        "Seabirds": ("bird", 2, "level 2"),
        "auk": ("Seabirds", 3, "level 3"),
        "booby": ("Seabirds", 3, "level 3"),
        "wader": ("bird", 2, "level 2"),
        "crane": ("wader", 3, "level 3"),
        "dipper": (None, 1, None),
        "never said": (None, 1, None),
    }
    assert {name for name, row in rows.items() if row["is_name"]} == {*CLASSES, "never said"}
    assert {row["source"] for row in rows.values()} == {"mllm"}
    assert rows["dipper"]["answer"] == "I cannot help with that."
    assert [rows[name]["reason"] for name in ("dipper", "never said", "auk", "bird")] == [
        "refused",
        "refused",
        None,
        None,
    ]
    assert "nothing stands above 2 of 5 names (refused 2)" in caplog.text
    assert table.failed == 0
    # What is beside it can be edited and read as a file; names without a kind are unknown there, too.
    tree = read_kinds(table.path("parents.csv")).tree([*CLASSES, "never said"])
    again = {name: tree.names[tree.parent[node]] for node, name in enumerate(tree.names) if node}
    assert again == {name: row["parent"] or "" for name, row in rows.items()}
    assert set(tree.unknown) == {"dipper", "never said"}


def test_models_decide_in_it_and_reports_measure_in_it(given, tmp_path: Path, asking: Says) -> None:
    tree = {**ASKED, "decide": "any_level", "specific_above": 0.77}
    run = run_of(given, tmp_path, hierarchy=tree)
    table = run.table("eval_label_prototypes")
    assert [made.name for made in run.context.tables].count("kind_answers") == 1
    rows = table.find(np.arange(TRAIN, TRAIN + TEST)).to_pylist()
    said = {row["label"] for row in rows if row["level"] in {"level 1", "level 2"}}
    assert said
    assert said <= {"bird", "Seabirds", "wader"}
    truth = [CLASSES[label] for label in given[1][TRAIN:]]
    found = by_level(run, {"label_prototypes": [row["label"] or "" for row in rows]}, truth)
    assert found is not None
    scores = found["label_prototypes"]
    assert [level.level for level in scores.levels] == ["level 2", "level 3"]  # all known ones are birds
    assert (scores.images, scores.left_out) == (15, 5)  # of the dipper nobody knows what it is
    assert "kind_answers" in stage_of("report").consults(run)
    without = run_of(given, tmp_path, hierarchy=ASKED)
    assert without.table("eval_label_prototypes").uri != table.uri
    assert without.table("eval_label_prototypes").uri == run_of(given, tmp_path).table("eval_label_prototypes").uri


def test_other_answers_are_other_predictions(given, tmp_path: Path, asking: Says) -> None:
    tree = {**ASKED, "decide": "least_cost"}
    before = run_of(given, tmp_path, hierarchy=tree).table("eval_label_prototypes").uri
    asking.known = {**SAID, "crane": "seabird"}
    asking.asked.clear()
    same = run_of(given, tmp_path, hierarchy=tree)
    assert same.table("eval_label_prototypes").uri == before  # nothing is asked again
    assert asking.asked == []
    other = run_of(given, tmp_path, hierarchy={**tree, "rounds": 1})
    assert other.table("eval_label_prototypes").uri != before
    assert asking.asked == [*CLASSES, "never said"]


def test_a_tree_without_any_name_is_refused_before_models_decide_in_it(given, tmp_path: Path, asking: Says) -> None:
    asking.known = {}
    table = run_of(given, tmp_path, hierarchy=ASKED).table("parents")
    assert table.extra["metrics"]["names_without_kind"] == 5
    with pytest.raises(KindsError, match=r"none of the labels.*gave no usable answer"):
        run_of(given, tmp_path / "other", hierarchy={**ASKED, "decide": "least_cost"}).table("parents")


def test_true_names_are_asked_about_behind_the_labels(given, tmp_path: Path) -> None:
    samples = given[0]["samples"]
    rows = samples.read().to_pylist()
    for row in rows[-2:]:
        row["class_name"] = "Zebra" if row is rows[-1] else "AUK"
    made = Table(str(tmp_path / "samples"), "samples", "f", len(rows), 0, 1, len(rows), 0.0, extra=samples.extra)
    tables.write_part(made.uri, 0, pa.Table.from_pylist(rows, schema=schemas.SAMPLES))
    made.commit()
    run = run_of(({**given[0], "samples": made}, given[1]), tmp_path / "run", hierarchy=ASKED)
    assert run_names(run) == (*CLASSES, "never said", "Zebra")


def test_a_tree_of_a_file_is_shown_as_well(given, tmp_path: Path, caplog) -> None:
    (tmp_path / "kinds.csv").write_text("kind,family\nauk,seabird\nbooby,seabird\nplover,wader\n")
    file = {"source": "file", "path": str(tmp_path / "kinds.csv")}
    rows = run_of(given, tmp_path, hierarchy=file).table("parents").read().to_pylist()
    found = {row["name"]: row for row in rows}
    assert (found["auk"]["parent"], found["auk"]["level"], found["seabird"]["level"]) == ("seabird", "kind", "family")
    assert (found["crane"]["depth"], found["crane"]["reason"], found["crane"]["answer"]) == (1, "unknown", None)
    assert not found["plover"]["is_name"]
    assert {row["source"] for row in rows} == {"file"}
    assert "nothing stands above 3 of 5 names (unknown 3)" in caplog.text


def test_failed_requests_are_asked_again_and_finished_parts_are_not(given, tmp_path: Path) -> None:
    run = run_of(given, tmp_path, hierarchy={**ASKED, "workers": {"rows_per_part": 3}})
    job = KindAnswers().job(run)
    assert job.rows is not None
    storage.write_bytes(str(tmp_path / "parts" / IDS), job.ids.astype("<i8").tobytes())
    workers = run.config.hierarchy.workers
    parts = PartJob(
        "kind_answers", str(tmp_path / "parts"), job.worker, job.arguments, job.schema, job.rows, workers, job.columns
    )
    down = Says({**SAID, "booby": Answer(None, failure=Failure(Reason.ENGINE_ERROR, "503"))})
    facts = compute_part(parts, KindWorker(job.arguments["settings"], down), 0, again=False)
    assert facts["failures"] == {"engine_error": 1}
    said = Failures.from_json(facts["failures"], facts["examples"]).in_words()
    assert said.startswith("engine_error (1), e.g. booby: 503")
    assert tables.finished_parts(parts.folder) == {0}  # a session that ends here goes on with part 1
    up = Says(SAID)
    worker = KindWorker(job.arguments["settings"], up)
    compute_part(parts, worker, 1, again=False)
    assert up.asked == ["dipper", "never said"]
    assert compute_part(parts, worker, 0, again=True)["failures"] == {}
    assert up.asked[2:] == ["booby", "seabird"]  # the failed row alone
    assert tables.read_part(parts.folder, 0)["kinds"].to_pylist()[1] == ["seabird", "bird"]


def test_what_it_will_ask_is_on_the_bill(given, tmp_path: Path) -> None:
    look = Look(config_of(tmp_path, hierarchy=ASKED), str(tmp_path / "none"), Photos({"train": 900, "test": 3}))
    (line,) = [ask for ask in asks(look, ["parents"]) if ask.stage == "kind_answers"]
    assert (line.row.requests, line.row.output, line.at_most) == (2, 64, True)
    assert line.model.kind == "openai"
    assert 2 * 40 < line.row.prompt < 2 * 150
    assert [ask.stage for ask in asks(look, ["predictions"])].count("kind_answers") == 0
    decided = config_of(tmp_path, hierarchy={**ASKED, "decide": "least_cost"})
    look = Look(decided, str(tmp_path / "none"), Photos({"train": 900, "test": 3}))
    assert "kind_answers" in [ask.stage for ask in asks(look, ["eval_near"])]


def test_what_cannot_work_is_refused_before_anything_starts(tmp_path: Path) -> None:
    simulated = build({"mllm": {"kind": "simulated"}, "hierarchy": {"source": "mllm"}})
    for stage in (KindAnswers(), Parents(), stage_of("report")):
        with pytest.raises(ConfigError, match=r"mllm\.kind = simulated writes no text.*set hierarchy\.llm"):
            stage.check(simulated)
    with pytest.raises(ConfigError, match=r"hierarchy\.source = none: there is no tree"):
        Parents().check(build({}))
    with pytest.raises(ConfigError, match=r"hierarchy\.source = file: no model is asked"):
        KindAnswers().check(build({"hierarchy": {"source": "file", "path": "x"}}))
    with pytest.raises(KindsError, match="there is no file"):
        Parents().check(build({"hierarchy": {"source": "file", "path": str(tmp_path / "no.csv")}}))
    for wrong, said in (
        ({"path": "x.csv"}, "source = mllm reads nothing"),
        ({"levels": ["a", "b"]}, "source = mllm has no columns"),
        ({"prompt": "What is it?"}, r"has no \{name\}"),
        ({"prompt": "What is {name} in {place}?"}, r"has \{place\}, which is not filled in"),
        ({"rounds": 0}, "rounds"),
    ):
        with pytest.raises(ConfigError, match=said):
            build({"hierarchy": {**ASKED, **wrong}})
    (tmp_path / "model.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("w")
    other = build({"hierarchy": {**ASKED, "decide": "any_level"}, "infer": {"model": str(tmp_path)}})
    with pytest.raises(ConfigError, match=r"not for the model's.*parents\.csv"):
        stage_of("predictions").check(other)


def test_a_whole_job_has_the_tree_where_there_is_one() -> None:
    def wanted(tree: dict[str, Any]) -> tuple[bool, bool]:
        config: Config = build({"hierarchy": tree})
        return Parents().wanted(config), KindAnswers().wanted(config)

    assert wanted({}) == (False, False)
    assert wanted({"source": "wordnet"}) == (True, False)
    assert wanted({"source": "mllm"}) == (True, True)
    assert KindAnswers().shows_images(build({"hierarchy": {"source": "mllm"}}))  # the engine that labels
    assert not KindAnswers().shows_images(build({"hierarchy": ASKED}))


def test_runs_without_a_tree_know_nothing_of_it(given, tmp_path: Path) -> None:
    run: Run = run_of(given, tmp_path)
    run.table("eval_label_prototypes")
    assert {"kind_answers", "parents"}.isdisjoint(made.name for made in run.context.tables)
