"""Images that are chosen by their vectors: which are asked about, what it costs, and that nothing is asked twice."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray import cloudpickle

from cluster.stage import RunContext
from fgvr import storage, tables
from fgvr.clip.vectors import embedding_rows
from fgvr.config import ConfigError, build
from fgvr.config.base import Workers
from fgvr.schemas import Failure, Reason
from fgvr.selection.whitening import Whitening
from fgvr.sources.sampling import first_of, split_ids
from fgvr.tables import Table
from pipelines import selection
from pipelines.asks import asks
from pipelines.embed import discovered, pool
from pipelines.estimate import plan
from pipelines.registry import stage_of
from pipelines.report_content import selection_facts
from pipelines.run_tables import Look, Run, closure
from pipelines.selection import SelectionError
from tests.untracked import NoTracking
from tests.without_ray import parts_without_ray

DIM = 16
KINDS = 36
"""Of the field guide: photos of one kind have similar vectors here."""


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    parts_without_ray(monkeypatch)


def context_of(folder: Path, **label: Any) -> RunContext:
    images = {"select": "medoids", "max_images": 60} | label.pop("images", {})
    tree = {
        "run": {"folder": str(folder), "max_error_share": 0.5},
        "ingest": {"source": {"kind": "field_guide", "train_per_class": 6, "test_per_class": 1}},
        "mllm": {"kind": "simulated", "request_seconds": 0, "names": 20},
        "embed": {"vectors": {"kind": "simulated", "dim": DIM}},
        "label": {"images": images, "workers": {"rows_per_part": 16}} | label,
    }
    return RunContext(build(tree), str(folder), NoTracking())


def run_of(
    context: RunContext, *, missing: tuple[int, ...] = (), revision: int = 0, spread: float = 0.6, kinds: int = KINDS
) -> Run:
    """With vectors made up for all photos: those of one kind lie together, those of `missing` could not be read."""
    run = Run(context)
    samples = run.table("samples")
    classes = samples.read(["class_id"])["class_id"].to_numpy()
    random = np.random.default_rng(0)
    centres = random.normal(size=(KINDS, DIM))
    vectors = centres[classes % kinds] + spread * random.normal(size=(len(classes), DIM))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    failures: list[Failure | None] = [None] * len(classes)
    for row in missing:
        failures[row] = Failure(Reason.CORRUPT, "half a file")
    rows = embedding_rows(np.arange(len(classes)), vectors, failures)
    uri = storage.join(context.folder, "tables", "embeddings", f"made-up-{revision}")
    tables.write_part(uri, 0, rows)
    extra = {"dim": DIM, "metrics": {}}
    run.tables["embeddings"] = Table(
        uri, "embeddings", "made-up", len(classes), len(missing), 1, len(classes), 0.0, revision, extra=extra
    )
    return run


def ids_of(table: Table) -> list[int]:
    ids: list[int] = table.read(["image_id"])["image_id"].to_pylist()
    return ids


def test_one_image_per_cluster_is_asked_about(tmp_path: Path) -> None:
    run = run_of(context_of(tmp_path))
    labels, selected = run.table("labels"), run.table("selected")
    assert ids_of(labels) == ids_of(selected) == discovered(run).tolist()
    assert labels.rows == 60
    samples = run.table("samples")
    assert set(ids_of(selected)) <= set(split_ids(samples, ["train"]).tolist())
    classes = samples.take(discovered(run), ["class_id"])["class_id"].to_pylist()
    metrics = selected.extra["metrics"]
    assert (metrics["classes"], metrics["classes_reached"]) == (KINDS, len(set(classes)))
    at_random = first_of(pool(run), 60, seed=0)
    assert len(set(samples.take(at_random, ["class_id"])["class_id"].to_pylist())) < metrics["classes_reached"]
    rows = selected.read()
    assert sum(rows["stands_for"].to_pylist()) == metrics["pool"] == 216
    assert set(rows["nearest_id"].to_pylist()) <= set(ids_of(selected))
    assert set(rows["why"].to_pylist()) <= {"medoid", "random"}
    space = run.table("space")
    whitening = Whitening.from_bytes(storage.read_bytes(space.path("whitening.npz")))
    assert whitening.matrix.shape == (DIM, DIM)
    scatter = space.read()["scatter"].to_numpy()
    np.testing.assert_allclose(np.sort(scatter), np.sort(np.linalg.eigvalsh(np.linalg.inv(whitening.matrix)) ** 2))
    assert (np.diff(scatter) <= 0).all()


def test_an_image_without_a_vector_is_not_chosen(tmp_path: Path) -> None:
    first = discovered(run_of(context_of(tmp_path / "a")))
    missing = tuple(first[:20].tolist())
    run = run_of(context_of(tmp_path / "b"), missing=missing)
    assert not set(discovered(run)) & set(missing)
    metrics = run.table("selected").extra["metrics"]
    assert (metrics["without_vector"], metrics["chosen"]) == (20, 60)
    nothing = run_of(context_of(tmp_path / "c"), missing=tuple(range(run.table("samples").rows)))
    with pytest.raises(SelectionError, match="none of the 216 images to choose from has a vector"):
        nothing.table("space")


def test_the_pool_is_a_random_sample_of_the_split(tmp_path: Path) -> None:
    run = run_of(context_of(tmp_path, images={"pool": 80}))
    assert len(pool(run)) == 80
    assert set(discovered(run)) <= set(pool(run))
    other = run_of(context_of(tmp_path / "other", images={"pool": 80, "seed": 3}))
    assert pool(run).tolist() != pool(other).tolist()


def test_more_questions_than_photos(tmp_path: Path) -> None:
    run = run_of(context_of(tmp_path, images={"max_images": 500}))
    assert ids_of(run.table("answers")) == pool(run).tolist()
    assert run.table("selected").extra["reach_of_twice_as_many"] is None


def test_where_searches_have_a_gpu_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def run_once(function: Any, there: Any, *, workers: Workers) -> Any:
        calls.append((there.device, there.threads, workers.num_gpus))
        work, sent = cloudpickle.loads(cloudpickle.dumps((function, replace(there, device="cpu"))))
        return cloudpickle.loads(cloudpickle.dumps(work(sent)))

    monkeypatch.setattr("cluster.once.run_once", run_once)
    context = context_of(tmp_path / "gpu")
    workers = context.config.neighbours.workers.model_copy(update={"num_gpus": 1, "num_cpus": 3})
    search = context.config.neighbours.model_copy(update={"workers": workers})
    there = RunContext(context.config.model_copy(update={"neighbours": search}), context.folder, context.tracker)
    on_gpu, here = discovered(run_of(there)), discovered(run_of(context_of(tmp_path / "cpu")))
    assert calls == [("cuda", 3, 1)] * 2
    assert on_gpu.tolist() == here.tolist()
    assert selection.Selected().workers(there.config) == "neighbours.workers"
    assert selection.Selected().workers(context.config) is None


@pytest.mark.parametrize("rounds", [1, 2])
def test_photos_that_are_all_alike(tmp_path: Path, rounds: int) -> None:
    run = run_of(context_of(tmp_path, rounds=rounds), spread=0, kinds=1)
    assert run.table("labels").rows == 1
    assert "only 1 of 216 images are no near-duplicates" in run.table("selected").extra["remarks"][0]
    assert "the space is not whitened" in run.table("space").extra["remarks"][0]
    facts = selection_facts(run)
    assert facts is not None
    assert (facts.asked, facts.covered) == (1, None)


def test_a_vector_that_comes_later_changes_nothing(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    before = run_of(context, missing=(0, 5, 7))
    asked = before.table("answers")
    again = run_of(context, revision=1)
    assert again.table("space").fingerprint != before.table("space").fingerprint
    assert again.table("selected").uri == before.table("selected").uri
    assert again.table("answers").uri == asked.uri
    # Another number of questions is another selection, of all vectors that there are now.
    more = run_of(context_of(tmp_path, images={"max_images": 61}), revision=1)
    assert more.table("selected").uri != before.table("selected").uri


@pytest.mark.parametrize("duplicate_similarity", [None, 0.9999])
def test_two_rounds(tmp_path: Path, duplicate_similarity: float | None) -> None:
    run = run_of(context_of(tmp_path, rounds=2, duplicate_similarity=duplicate_similarity))
    labels = run.table("labels")
    first, both = ids_of(run.table("first_selected")), ids_of(run.table("selected"))
    assert (len(first), len(both)) == (30, 60)
    assert set(first) < set(both)
    rows = run.table("selected").read().to_pylist()
    assert {row["image_id"] for row in rows if row["round"] == 1} == set(first)
    assert {row["why"] for row in rows if row["round"] == 2} <= {"uncovered", "disputed"}
    assert ids_of(labels) == ids_of(run.table("answers")) == both
    # Each image is asked about once: the rows are those of the rounds, in the order of their ids.
    asked = {name: ids_of(run.table(name)) for name in ("first_answers", "second_answers")}
    assert sorted(asked["first_answers"] + asked["second_answers"]) == both
    texts = {
        row["image_id"]: row["texts"]
        for name in asked
        for row in run.table(name).read(["image_id", "texts"]).to_pylist()
    }
    assert [texts[image] for image in both] == run.table("answers").read(["texts"])["texts"].to_pylist()
    assert not any(name.endswith("tokens") for name in run.table("answers").extra["metrics"])


def test_what_the_report_says(tmp_path: Path) -> None:
    run = run_of(context_of(tmp_path), missing=(40,))
    facts = selection_facts(run)
    assert facts is not None
    metrics = run.table("selected").extra["metrics"]
    assert (facts.asked, facts.pool, facts.without_vector, facts.classes) == (60, 216, 1, KINDS)
    assert facts.classes_reached == metrics["classes_reached"]
    assert sum(facts.why.values()) == 60
    labels = run.table("labels").read(["label"])["label"].to_pylist()
    alone = sum(labels.count(name) == 1 for name in set(labels))
    assert facts.new_names == pytest.approx(alone / 60)
    assert facts.covered is not None
    assert 0 <= facts.covered <= 1
    at_random = run.context.config.model_copy(update={"label": build({}).label})
    assert selection_facts(Run(RunContext(at_random, str(tmp_path), NoTracking()))) is None


def test_another_way_to_merge_names_asks_nothing_again(tmp_path: Path) -> None:
    before = run_of(context_of(tmp_path, rounds=2)).table("answers")
    run = run_of(context_of(tmp_path, rounds=2, merge_similarity=None))
    run.table("labels")
    assert run.table("answers").uri == before.uri


def test_the_plan_knows_how_many_are_asked_about(tmp_path: Path) -> None:
    config = context_of(tmp_path).config
    assert [(ask.stage, ask.rows) for ask in asks(Look.of(config), ["labels"])] == [("answers", 60)]  # not listed yet
    look = run_of(context_of(tmp_path / "listed")).looking()
    assert [(ask.stage, ask.rows, ask.at_most) for ask in asks(look, ["labels"])] == [("answers", 60, True)]
    rounds = run_of(context_of(tmp_path / "rounds", rounds=2, images={"max_images": 61})).looking()
    found = [(ask.stage, ask.rows) for ask in asks(rounds, ["labels"])]
    assert found == [("first_answers", 31), ("second_answers", 30)]
    small = run_of(context_of(tmp_path / "small", images={"max_images": 500})).looking()
    assert [ask.rows for ask in asks(small, ["labels"])] == [216]
    assert "answers 60" in plan(context_of(tmp_path / "new").config, ["labels"])


def test_only_the_pool_is_embedded_for_it(tmp_path: Path) -> None:
    context = context_of(tmp_path, images={"pool": 80})
    few = context.config.model_copy(
        update={
            "embed": context.config.embed.model_copy(update={"images": "needed"}),
            "aspects": context.config.aspects.model_copy(update={"max_images": 5}),
        }
    )
    run = Run(RunContext(few, context.folder, context.tracker))
    run.table("samples")
    needed = set(stage_of("embeddings").which(run))  # type: ignore[attr-defined]
    test = set(split_ids(run.table("samples"), ["test"]))
    assert set(pool(run)) <= needed
    assert len(needed - test) <= 85
    assert "selected" in closure(run.looking(), ["answers"])


@pytest.mark.parametrize(
    ("pairs", "images", "said"),
    [(0, 9, "is not whitened"), (19, 9, "only 19 of 45"), (23, 9, ""), (49_000, 30_000, "only 49,000 of 100,000")],
)
def test_a_space_of_few_neighbours_is_remarked_on(pairs: int, images: int, said: str) -> None:
    remarks = selection._remarks(pairs, images)
    assert len(remarks) == bool(said)
    assert said in "".join(remarks)


@pytest.mark.parametrize(
    ("label", "why"),
    [
        ({"images": {"per_class": 3}}, "per_class is the papers' protocol"),
        ({"images": {"max_images": None}}, "all images are asked about"),
        ({"images": {"pool": 59}}, r"pool = 59: max_images = 60 cannot be chosen among fewer"),
        ({"images": {"select": "random"}, "rounds": 2}, "random images are not chosen by earlier answers"),
        ({"images": {"max_images": 1}, "rounds": 2}, "leaves nothing for the second"),
    ],
)
def test_configs_that_cannot_work(tmp_path: Path, label: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        context_of(tmp_path, **label)


@pytest.mark.parametrize(
    ("tree", "why"),
    [
        ({"embed": {"splits": ["test"]}, "label": {"images": {"select": "typical"}}}, "add train"),
        (
            {"aspects": {"with_labels": True}, "label": {"images": {"select": "medoids"}, "rounds": 2}},
            "label.rounds: with aspects.with_labels",
        ),
    ],
)
def test_configs_whose_parts_do_not_fit(tree: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        build(tree)


def test_nothing_to_choose_at_random(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"label.images.select is random"):
        selection.Selected().check(context_of(tmp_path, images={"select": "random"}).config)
