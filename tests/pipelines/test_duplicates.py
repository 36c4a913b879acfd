"""One image of a group of near-duplicates is asked about, its answer is that of all, and the group counts once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.stage import RunContext
from fgvr import tables
from fgvr.clip.vectors import embedding_rows
from fgvr.config import ConfigError, build
from fgvr.schemas import Failure, Reason
from fgvr.sources.sampling import discovery_ids
from fgvr.tables import Table
from pipelines import duplicates
from pipelines.run_tables import Look, Run
from tests.untracked import NoTracking
from tests.without_ray import parts_without_ray

DIM = 16
OTHERS = {1: 0, 2: 0, 5: 3}
"""Discovery image, by its place → the one that it is like."""


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    parts_without_ray(monkeypatch)


def context_of(folder: Path, **more: Any) -> RunContext:
    images = {"max_images": 12, "seed": 1}
    tree = {
        "run": {"folder": str(folder), "max_error_share": 0.5},
        "ingest": {"source": {"kind": "field_guide", "train_per_class": 1, "test_per_class": 1}},
        "mllm": {"kind": "simulated", "request_seconds": 0, "names": 20},
        "label": {"images": images, "duplicate_similarity": 0.98, "workers": {"rows_per_part": 4}},
    }
    return RunContext(build(tree | more), str(folder), NoTracking())


def run_of(context: RunContext, *, retried: bool = False, **label: Any) -> Run:
    """With vectors made up; `label` is said otherwise of this stage."""
    other = context.config.model_copy(update={"label": context.config.label.model_copy(update=label)})
    context = RunContext(other, context.folder, context.tracker, context.tables)
    run = Run(context)
    samples = run.table("samples")
    ids = discovery_ids(samples.batches(["image_id", "split", "class_id"]), context.config.label.images).tolist()
    run.tables["embeddings"] = vectors_of(context, samples, ids, retried=retried)
    return run


def vectors_of(context: RunContext, samples: Table, ids: list[int], *, retried: bool = False) -> Table:
    """Of the discovery images: 1 and 2 are nearly 0, 5 equals 3, the others are alone.

    7 could not be read at first; when it was tried again, it equals 3, too.
    """
    random = np.random.default_rng(0)
    vectors = random.standard_normal((samples.rows, DIM))
    for place, like in OTHERS.items():
        vectors[ids[place]] = vectors[ids[like]] + (0.02 * random.standard_normal(DIM) if like == 0 else 0)
    vectors[ids[7]] = vectors[ids[3]]
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    failure = None if retried else Failure(Reason.CORRUPT, "cut off")
    lost = [failure if row == ids[7] else None for row in range(samples.rows)]
    place, count = f"{context.folder}/vectors", samples.rows
    table = Table(place, "embeddings", "f", count, int(not retried), 1, count, 0.0, int(retried), extra={"dim": DIM})
    tables.write_part(table.uri, 0, embedding_rows(np.arange(samples.rows), vectors, lost))
    table.commit()
    return table


def test_a_group_is_asked_about_once_and_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "ROWS_PER_PART", 5)  # image 5 is in another part than 3, whose answer it gets
    context = context_of(tmp_path)
    alone = run_of(context, duplicate_similarity=None)
    apart = alone.table("labels")
    ids = apart.read(["image_id"])["image_id"].to_pylist()

    run = run_of(context)
    groups = run.table("duplicates")
    rows = groups.read().to_pylist()
    assert [row["image_id"] for row in rows] == ids
    assert [row["photo_id"] for row in rows] == [ids[OTHERS.get(place, place)] for place in range(12)]
    for place, row in enumerate(rows):
        assert row["similarity"] == pytest.approx(1, abs=0.02 if place in {1, 2} else 1e-6)
    metrics = groups.extra["metrics"]
    assert (metrics["photos"], metrics["shared"], metrics["largest_group"]) == (9, 3, 3)

    named = run.table("labels")
    (answers,) = (table for table in context.tables if table.name == "answers" and table.rows == 9)
    assert answers.read(["image_id"])["image_id"].to_pylist() == [ids[p] for p in range(12) if p not in OTHERS]
    # The report adds the tokens of all tables up: those that were paid for are those of the answers.
    assert [bool(table.extra["metrics"]) for table in context.tables[-3:]] == [True, False, True]
    assert [table.name for table in context.tables[-3:]] == ["answers", "shared_answers", "labels"]
    before, after = apart.read().to_pylist(), named.read().to_pylist()
    assert [row["image_id"] for row in after] == ids
    assert named.extra["shared"] == 3
    for place, row in enumerate(after):
        like = OTHERS.get(place)
        if like is None:
            assert row["raw"] == before[place]["raw"]
            assert row["output_tokens"] == before[place]["output_tokens"] > 0
        else:
            assert (row["raw"], row["label"]) == (after[like]["raw"], after[like]["label"])
            assert (row["prompt_tokens"], row["output_tokens"]) == (0, 0)

    sets = run.table("candidates").read().to_pylist()
    photo = {ids[place]: ids[OTHERS.get(place, place)] for place in range(12)}
    for row in sets:
        seen = [photo[image] for image in row["neighbour_ids"]]
        assert len(seen) == len(set(seen))
        assert not seen or row["neighbour_ids"][0] == row["image_id"]
    plain = alone.table("candidates").read().to_pylist()
    assert any(len({photo[image] for image in row["neighbour_ids"]}) < len(row["neighbour_ids"]) for row in plain)


def test_a_failure_is_shared_and_says_whose_it_is(tmp_path: Path) -> None:
    mllm = {"kind": "simulated", "request_seconds": 0, "failures": {"engine_error": 0.9}}
    context = context_of(tmp_path, mllm=mllm, run={"folder": str(tmp_path), "max_error_share": 1})
    named = run_of(context).table("labels")
    rows = named.read().to_pylist()
    shared = [place for place in OTHERS if rows[place]["error"] is not None]
    assert shared
    for place in shared:
        first = rows[OTHERS[place]]
        assert rows[place]["error"]["reason"] == first["error"]["reason"] == "engine_error"
        assert rows[place]["error"]["detail"].startswith(f"as image {first['image_id']}, which shows the same: ")


def test_a_vector_that_comes_later_has_nobody_asked_anew(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    groups = run_of(context).table("duplicates")
    assert run_of(context, retried=True).table("duplicates").version == groups.version
    other = run_of(context, retried=True, duplicate_similarity=0.97).table("duplicates")
    assert (groups.extra["metrics"]["photos"], other.extra["metrics"]["photos"]) == (9, 8)


def test_looking_for_groups_settles_nothing(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    run = run_of(context)
    groups = run.table("duplicates")
    known = {name: run.table(name) for name in ("samples", "embeddings")}
    settled = tmp_path / duplicates.MADE_OF_FILE
    settled.unlink()  # as where a session was killed behind the commit
    assert Look(context.config, str(tmp_path), given=known).table("duplicates") == groups
    assert not settled.exists()
    assert Run(context, known).table("duplicates") == groups
    assert settled.exists()


def test_groups_found_in_tasks_are_those_found_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.once.run_once", lambda work, *arguments, **_: work(*arguments))
    found = []
    for name, search in (("here", {}), ("tasks", {"tasks": True, "memory_gb": 1e-7, "workers": {"rows_per_part": 4}})):
        context = context_of(tmp_path / name, neighbours=search)
        groups = run_of(context).table("duplicates")
        found.append(groups.read().to_pylist())
    assert groups.extra["search"]["shards"] > 1
    assert [table.name for table in context.tables[-2:]] == ["duplicates_neighbours", "duplicates"]
    assert [row["photo_id"] for row in found[0]] == [row["photo_id"] for row in found[1]]
    assert [row["similarity"] for row in found[0]] == pytest.approx([row["similarity"] for row in found[1]])


def test_a_search_of_other_images_is_another_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates.SearchStage, "recipe", lambda *_: {})  # of as many images: the same search
    searches = []
    for seed in (1, 2, 1):
        context = context_of(tmp_path / str(len(searches)), label={"images": {"max_images": 12, "seed": seed}})
        searches.append(duplicates.DuplicatesNeighbours().recipe(Run(context)))
    assert searches[0] == searches[2] != searches[1]


def test_without_vectors_of_the_discovery_split_there_is_nothing_to_compare(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^label\.duplicate_similarity: .* embed\.splits leaves out train"):
        context_of(tmp_path, embed={"splits": ["test"]})


def test_labels_with_aspects_cannot_be_shared(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^label\.duplicate_similarity: with aspects\.with_labels"):
        context_of(tmp_path, aspects={"with_labels": True}, questions={"file": "q.txt"})
