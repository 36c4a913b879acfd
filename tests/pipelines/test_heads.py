"""label_prototypes, heads and propagated on planted vectors, and what infer and evaluate make of them; without Ray."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fgvr import schemas, storage
from fgvr.candidates.sets import OWN_COLUMNS
from fgvr.config import Clip, ConfigError
from fgvr.hierarchy.kinds import KindsError
from fgvr.mllm.backend import NameAnswer
from fgvr.mllm.scoring_workers import choice_rows
from fgvr.models.from_features import StoredVectorWorker
from fgvr.models.head import HeadModel, VectorClasses, load_vector_classes, read_head_file
from fgvr.tables import Table
from pipelines.evaluate import _mistakes
from pipelines.heads import graph_ids, propagates
from pipelines.infer import Predictions, identity_of
from pipelines.kinds import by_level
from pipelines.registry import stage_of
from tests.pipelines.planted_run import (
    CLASSES,
    TEST,
    TRAIN,
    UNEMBEDDED,
    UNLABELLED,
    config_of,
    planted,
    run_of,
    written,
)


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> tuple[dict[str, Table], np.ndarray]:
    return planted(tmp_path_factory.mktemp("given"))


def right(table: Table, truth: np.ndarray, column: str) -> float:
    rows = table.read()
    names = rows[column].to_pylist()
    return float(
        np.mean([name == CLASSES[truth[n]] for n, name in zip(rows["image_id"].to_pylist(), names, strict=True)])
    )


@pytest.fixture
def head(tmp_path: Path) -> Path:
    """A head with the CLIP of the demo in its folder."""
    classes = VectorClasses.of_directions(("a", "b"), np.eye(2, 4, dtype=np.float32), None)
    HeadModel(classes, Clip(model="demo")).save(tmp_path / "model")
    return tmp_path / "model"


def test_a_given_head_counts_with_the_encoder_in_its_folder(head: Path, tmp_path: Path) -> None:
    made = identity_of(str(head))
    files = [(head / name).read_bytes() for name in ("model.json", "model.safetensors")]
    assert made == hashlib.sha256(b"".join(files)).hexdigest()  # as earlier versions had it
    shutil.copytree(head, tmp_path / "moved")
    assert identity_of(str(tmp_path / "moved")) == made
    weights = head / "clip" / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    changed = identity_of(str(head))
    assert changed != made
    (head / "tokens.txt").write_text("more")
    assert identity_of(str(head)) not in {made, changed}


def test_a_given_student_counts_as_in_earlier_versions(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text('{"kind": "student"}')
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "README.md").write_text("about it")
    assert identity_of(str(tmp_path)) == hashlib.sha256(b'{"kind": "student"}weights').hexdigest()
    for damaged in ("[]", "{", '{"clip": null}', '{"encoder": {"identity": 3}}'):
        (tmp_path / "model.json").write_text(damaged)
        (tmp_path / "clip").mkdir(exist_ok=True)
        (tmp_path / "clip" / "w.bin").write_bytes(b"w")
        assert identity_of(str(tmp_path)) != hashlib.sha256(damaged.encode() + b"weights").hexdigest()


@pytest.mark.parametrize(
    "heads",
    [
        {},
        {"loss": "ce", "network": "linear"},
        {"network": "mlp", "hidden": 16, "members": 2},
        {"loss": "seesaw"},
        {"loss": "balanced"},
        {"loss": "proden", "whiten": False},
    ],
)
def test_models_learn_from_labels_and_name_what_they_learned_from(given, tmp_path, heads):
    run = run_of(given, tmp_path, heads={"steps": 60, **heads})
    for name in ("label_prototypes", "heads") if not heads else ("heads",):
        table = run.table(name)
        assert table.rows == TRAIN
        # Four in five labels are right; sets of two hold the right one nearly as often, but do not say which it is.
        assert right(table, given[1], "named") > (0.8 if heads.get("loss") == "proden" else 0.9)
        rows = {row["image_id"]: row for row in table.read().to_pylist()}
        assert rows[UNEMBEDDED] == {"image_id": UNEMBEDDED, "label_id": None, "named": None, "score": None}
        assert rows[UNLABELLED]["label_id"] is None
        assert rows[UNLABELLED]["named"] == CLASSES[given[1][UNLABELLED]] or heads.get("loss") == "proden"
        facts = table.extra["metrics"]
        assert facts["names"] == 4  # not the name that nobody said
        assert facts["answers_per_name"] == pytest.approx(58 / 4)
        assert 0.6 < facts["held_out_agreement"] <= 0.9
        model = read_head_file(Path(table.path("model")))
        assert model["encoder"]["bundled"]
        assert model["whitened"] == heads.get("whiten", True)
        assert load_vector_classes(Path(table.path("model"))).temperature == model["temperature"]
        assert "space" in {made.name for made in run.context.tables} or not model["whitened"]
    assert len(json.loads(storage.read_bytes(run.table("heads").path("losses.json")))) == 60


def test_labels_that_a_second_look_replaced_are_learned(given, tmp_path):
    tables, truth = given
    said = tables["labels"].read(["label_id"])["label_id"].to_pylist()
    wrong = [n for n in range(TRAIN) if said[n] not in {truth[n], None}]
    parts = {"label": {"reask": 0.2}, "heads": {"steps": 5, "propagation": "always"}}
    run = run_of(given, tmp_path, **parts)
    choices = [(CLASSES[said[n]], CLASSES[truth[n]]) for n in wrong]
    answers = [NameAnswer(np.array([-2.0, -0.5], np.float32)) for _ in wrong]
    run.tables["reasked"] = written(tmp_path, "reasked", choice_rows(wrong, choices, answers))
    run.tables["reasked"].commit()
    for name in ("label_prototypes", "heads"):
        found = run.table(name).read(["label_id"])["label_id"].to_pylist()
        assert all(found[n] == truth[n] for n in range(TRAIN) if n not in {UNEMBEDDED, UNLABELLED})
        assert run.table(name).extra["metrics"]["held_out_agreement"] > 0.9
    assert "reasked" in stage_of("propagated").reads(run)


def test_a_second_look_finds_both_tables(given, tmp_path):
    parts = {"heads": {"steps": 5}}
    first = [run_of(given, tmp_path, **parts).table(name) for name in ("label_prototypes", "heads")]
    second = [run_of(given, tmp_path, **parts).table(name) for name in ("label_prototypes", "heads")]
    assert [table.uri for table in first] == [table.uri for table in second]
    other = run_of(given, tmp_path, heads={"steps": 6})
    assert other.table("label_prototypes").uri == first[0].uri
    assert other.table("heads").uri != first[1].uri


def test_propagated_names_all_photos_with_a_vector(given, tmp_path):
    run = run_of(given, tmp_path, heads={"propagation": "always"})
    table = run.table("propagated")
    rows = {row["image_id"]: row for row in table.read().to_pylist()}
    assert list(rows) == list(range(TRAIN + TEST))
    assert rows[UNEMBEDDED]["error"]["reason"] == "no_input"
    assert table.extra["metrics"]["reached"] == 1.0
    assert right(table, given[1], "label") > 0.95
    assert all(0 < row["score"] <= 1 for row in rows.values() if row["error"] is None)


def test_propagation_is_switched_on_where_answers_are_few(given, tmp_path):
    assert not propagates(run_of(given, tmp_path))  # 58 answers for four names
    assert propagates(run_of(given, tmp_path, heads={"propagation": "always"}))
    run = run_of(given, tmp_path / "few")
    few = given[0]["labels"].read().slice(0, 12)
    run.tables["labels"] = written(tmp_path / "of few", "labels", few)
    storage.write_bytes(
        run.tables["labels"].path("label_space.json"),
        storage.read_bytes(given[0]["labels"].path("label_space.json")),
    )
    run.tables["labels"].commit()
    assert propagates(run)
    assert not propagates(run_of(given, tmp_path, heads={"propagation": "never"}))


def test_large_graphs_keep_the_labelled_and_evaluated_photos(given, tmp_path):
    ids = graph_ids(run_of(given, tmp_path, heads={"graph_images": 70}))
    assert len(ids) == TRAIN + TEST  # all of them are labelled or evaluated
    partly = run_of(given, tmp_path, heads={"graph_images": 65}, evaluate={"split": "other"})
    ids = graph_ids(partly)
    assert len(ids) == 65
    assert set(range(TRAIN)) <= set(ids.tolist())


@pytest.mark.parametrize("propagation", ["never", "always"])
def test_evaluation_takes_stored_vectors_or_propagated_names(given, tmp_path, propagation):
    run = run_of(given, tmp_path, heads={"steps": 60, "propagation": propagation})
    for name in ("eval_label_prototypes", "eval_heads"):
        table = run.table(name)
        assert set(range(TRAIN, TRAIN + TEST)) <= set(table.read()["image_id"].to_pylist())
        test = table.find(np.arange(TRAIN, TRAIN + TEST))
        assert test["label"].to_pylist() == [CLASSES[truth] for truth in given[1][TRAIN:]]
        assert table.read().schema.equals(schemas.PREDICTIONS)
    names = {table.name for table in run.context.tables}
    assert ("propagated" in names) == (propagation == "always")


def test_infer_uses_the_vectors_of_the_run(given, tmp_path):
    run = run_of(given, tmp_path, heads={"steps": 20}, infer={"trained": "heads", "split": "test"})
    stage = stage_of("predictions")
    assert isinstance(stage, Predictions)
    assert list(stage.reads(run)) == ["samples", "heads", "embeddings"]
    job = stage.job(run)
    assert job.worker is StoredVectorWorker
    rows = given[0]["samples"].read(["image_id", "uri"]).slice(TRAIN)
    found = job.worker(**job.arguments).process(rows)
    assert found["label"].to_pylist() == [CLASSES[truth] for truth in given[1][TRAIN:]]
    assert stage.recipe(run)["trained"] == "heads"
    assert "trained" not in stage.recipe(run_of(given, tmp_path))


def test_a_head_of_a_file_of_vectors_cannot_classify_photos(given, tmp_path):
    classes = VectorClasses.of_directions(("a", "b"), np.eye(2, dtype=np.float32), None)
    HeadModel(classes, None).save(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"infer\.model = .*: a head of vectors from a file"):
        stage_of("predictions").check(config_of(tmp_path, infer={"model": str(tmp_path / "model")}))


def test_costs_decide_in_evaluation(given, tmp_path):
    (tmp_path / "costs.csv").write_text("true,predicted,cost\n*,auk,1000\n*,abstain,1e-7\n")
    run = run_of(given, tmp_path, infer={"costs": str(tmp_path / "costs.csv")})
    rows = run.table("eval_label_prototypes").find(np.arange(TRAIN, TRAIN + TEST)).to_pylist()
    assert all(row["abstained"] or row["label"] != "auk" for row in rows)
    assert any(row["abstained"] for row in rows)
    before = run_of(given, tmp_path).table("eval_label_prototypes")
    assert before.uri != run.table("eval_label_prototypes").uri


@pytest.mark.parametrize("method", ["label_prototypes", "heads"])
def test_a_tree_decides_in_evaluation(given, tmp_path, method):
    (tmp_path / "kinds.csv").write_text("name,parent\n" + "".join(f"{name},seabird\n" for name in CLASSES))
    tree = {"source": "file", "path": str(tmp_path / "kinds.csv"), "decide": "any_level", "specific_above": 0.99999}
    run = run_of(given, tmp_path, hierarchy=tree)
    table = run.table(f"eval_{method}")
    rows = table.find(np.arange(TRAIN, TRAIN + TEST)).to_pylist()
    unsure = [row for row in rows if row["level"] == "level 1"]
    assert unsure
    assert all(row["label"] == "seabird" and row["label_id"] is None for row in unsure)
    assert all(row["score"] > 0.99999 for row in rows if row["level"] == "level 2")
    assert table.uri != run_of(given, tmp_path).table(f"eval_{method}").uri
    truth = [CLASSES[label] for label in given[1][TRAIN:]]
    found = by_level(run, {method: [row["label"] for row in rows]}, truth)
    assert found is not None
    assert [level.level for level in found[method].levels] == ["level 2"]
    assert found[method].levels[0].answered == pytest.approx(100 * (1 - len(unsure) / TEST))
    assert found[method].not_wrong >= found[method].levels[0].accuracy
    assert by_level(run_of(given, tmp_path), {method: truth}, truth) is None
    (tmp_path / "kinds.csv").write_text("name,parent\na,b\n")
    assert by_level(run, {method: truth}, truth) is None
    with pytest.raises(KindsError, match="none of the labels"):
        run_of(given, tmp_path, hierarchy=tree).table(f"eval_{method}")


def test_what_cannot_work_is_refused_before_anything_starts(given, tmp_path):
    for name in ("label_prototypes", "heads"):
        with pytest.raises(ConfigError, match="needs vectors of an encoder"):
            stage_of(name).check(config_of(tmp_path, embed={"vectors": {"kind": "simulated"}}))
    with pytest.raises(ConfigError, match="start = text needs network = cosine"):
        config_of(tmp_path, heads={"start": "text", "network": "mlp"})
    timm = {"vectors": {"kind": "timm", "model": "resnet18"}}
    with pytest.raises(ConfigError, match=r"heads\.start = text"):
        stage_of("heads").check(config_of(tmp_path, heads={"start": "text"}, embed=timm))
    with pytest.raises(ConfigError, match=r"infer\.cost_groups"):
        stage_of("predictions").check(config_of(tmp_path, infer={"cost_groups": "x.csv"}))
    (tmp_path / "kinds.csv").write_text("name,parent\nauk,bird\n")
    tree = {"source": "file", "path": str(tmp_path / "kinds.csv"), "decide": "least_cost"}
    with pytest.raises(ConfigError, match=r"infer\.costs says what mistakes cost, too"):
        stage_of("predictions").check(config_of(tmp_path, infer={"costs": "x.csv"}, hierarchy=tree))
    for wrong, said in (
        ({"path": None}, "path: required"),
        ({"source": "none"}, "source = none reads nothing"),
        ({"decide": "any_level", "cost": "height"}, "cost = height"),
        ({"levels": ["a"]}, "at least two"),
        ({"source": "wordnet", "levels": ["a", "b"]}, "has no columns"),
    ):
        with pytest.raises(ConfigError, match=said):
            config_of(tmp_path, hierarchy={**tree, **wrong})
    with pytest.raises(KindsError, match="wordnet-base"):
        stage_of("report").check(config_of(tmp_path, hierarchy={"source": "wordnet", "path": str(tmp_path / "no")}))
    with pytest.raises(ConfigError, match=r"infer\.trained = base"):
        stage_of("predictions").check(config_of(tmp_path, infer={"trained": "base"}, makd={"base": False}))


def test_without_labels_there_is_nothing_to_learn(given, tmp_path):
    run = run_of(given, tmp_path)
    rows = given[0]["labels"].read()
    for name in ("label", "label_id", *OWN_COLUMNS):
        column = rows.schema.get_field_index(name)
        empty = pa.array([[]] * TRAIN, rows.schema.field(name).type) if name in OWN_COLUMNS else pa.nulls(TRAIN)
        rows = rows.set_column(column, rows.schema.field(name), empty.cast(rows.schema.field(name).type))
    run.tables["labels"] = written(tmp_path / "none", "labels", rows)
    storage.write_bytes(run.tables["labels"].path("label_space.json"), b'{"labels": [], "counts": []}')
    run.tables["labels"].commit()
    for name in ("label_prototypes", "heads"):
        with pytest.raises(ValueError, match="nothing to learn from"):
            run.table(name)


def test_the_report_prices_the_mistakes_of_every_method(given, tmp_path):
    (tmp_path / "costs.csv").write_text("true,predicted,cost\nauk,booby,100\n*,*,0\n")
    run = run_of(given, tmp_path, infer={"costs": str(tmp_path / "costs.csv")})
    said = {"heads": ["booby", "auk"], "label_prototypes": ["auk", ""]}
    found = _mistakes(run, said, ["auk", "auk"])
    assert found is not None
    assert (found["heads"].wrong, found["heads"].confusion) == (0.5, 50.0)
    assert found["label_prototypes"].wrong == 0.5
    assert _mistakes(run, said, [None, ""]) is None
    assert _mistakes(run_of(given, tmp_path), said, ["auk", "auk"]) is None
