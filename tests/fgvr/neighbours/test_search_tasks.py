"""The workers of a search in tasks, without Ray: files, shards, merge, inverted file."""

import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from cluster.quarantine import failed_row
from fgvr import schemas, storage, tables
from fgvr.neighbours import Plan, inverted_file, nearest, search_worker
from fgvr.neighbours.exact import Product
from fgvr.neighbours.found import merge
from fgvr.neighbours.inverted_file import RecallTooLow
from fgvr.neighbours.search_worker import (
    MergeWorker,
    SearchTask,
    SearchWorker,
    VectorFile,
    prepare_index,
    read_neighbours,
)
from fgvr.schemas import Failure, Reason

EXACT = Plan("exact", Product("cpu", "bfloat16"))
IDS = np.arange(0, 900, 3)  # image ids: 300 queries, of which every second one is in the database


def unit_vectors(rows, dim=16, clusters=12):
    random = np.random.default_rng(0)
    centres = random.standard_normal((clusters, dim))
    vectors = centres[random.integers(0, clusters, rows)] + 0.3 * random.standard_normal((rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def blocks(ids, vectors, size=70):
    for at in range(0, len(ids), size):
        yield ids[at : at + size], vectors[at : at + size]


@pytest.fixture
def search(tmp_path):
    """Query files and those of three shards in a folder, and what one search in this process finds."""
    vectors, members = unit_vectors(300), IDS[::2]
    vectors[40] = vectors[44]  # a tie, and a query that is not the first of its copies
    own = np.where(np.arange(300) % 2 == 0, IDS, -1)
    queries = str(tmp_path / "queries")
    search_worker.write(queries, IDS, 16, blocks(IDS, vectors), own)
    shards = []
    for number, part in enumerate(np.array_split(members, 3)):
        shards.append(str(tmp_path / f"shard-{number}"))
        search_worker.write(shards[-1], part, 16, blocks(IDS, vectors))
    places = np.where(own >= 0, np.arange(300) // 2, -1)
    found = nearest(vectors, vectors[::2], 7, own=places, how=Plan("exact"))
    return queries, shards, members[found.ids], found.scores


def rows(ids):
    return pa.table({"image_id": ids})


def test_files_hold_the_vectors_of_their_images(tmp_path):
    vectors = unit_vectors(300)
    search_worker.write(str(tmp_path), IDS[5::7], 16, blocks(IDS, vectors))
    read = VectorFile.open(str(tmp_path))
    np.testing.assert_array_equal(read.vectors, vectors[5::7])
    np.testing.assert_array_equal(read.ids, IDS[5::7])
    with pytest.raises(ValueError, match="1 of 2 images have no vector"):
        search_worker.write(str(tmp_path), np.array([3, 4]), 16, blocks(IDS, vectors))


def test_a_part_does_not_look_through_its_whole_shard_for_what_is_not_finite(search, monkeypatch):
    queries, shards, _, _ = search
    searching = sys.modules["fgvr.neighbours.nearest"]  # the package has a function of the same name
    monkeypatch.setattr(searching, "first_not_finite", lambda _: pytest.fail("for every part again"))
    SearchWorker(SearchTask(queries, shards[0], 7, EXACT)).process(rows(IDS[:5]))


def test_the_shards_together_find_what_one_search_finds(search, tmp_path):
    queries, shards, ids, scores = search
    places = [storage.join(shard, "found") for shard in shards]
    for shard, place in zip(shards, places, strict=True):
        worker = SearchWorker(SearchTask(queries, shard, 7, EXACT))
        for number, first in enumerate(range(0, 300, 128)):
            tables.write_part(place, number, worker.process(rows(IDS[first : first + 128])))
    merger = MergeWorker(queries, places, 128, 7)
    for first in range(0, 300, 128):
        part = IDS[first : first + 128]
        found = merger.process(rows(part))
        assert found["image_id"].to_pylist() == part.tolist()
        found_ids, found_scores = read_neighbours(found, 7)
        np.testing.assert_array_equal(found_ids, ids[first : first + 128])
        np.testing.assert_allclose(found_scores, scores[first : first + 128], atol=1e-6)
    some = merger.process(rows(IDS[130:132]))  # single rows of a part, as after a worker's death
    np.testing.assert_array_equal(read_neighbours(some, 7)[0], ids[130:132])


def test_an_image_whose_search_failed_in_one_shard_is_a_failed_row(search, tmp_path):
    queries, shards, ids, _ = search
    places = [storage.join(shard, "found") for shard in shards]
    failure = Failure(Reason.ENGINE_ERROR, "its worker died while computing it")
    for shard, place in zip(shards, places, strict=True):
        found = SearchWorker(SearchTask(queries, shard, 7, EXACT)).process(rows(IDS))
        if place == places[1]:
            found = pa.concat_tables([found[:4], failed_row(int(IDS[4]), failure, schemas.NEIGHBOURS), found[5:]])
        tables.write_part(place, 0, found)
    merged = MergeWorker(queries, places, 300, 7).process(rows(IDS))
    assert merged.schema == schemas.NEIGHBOURS
    assert merged["error"].to_pylist() == [failure.as_row() if row == 4 else None for row in range(300)]
    assert merged["neighbour_ids"][4].as_py() is None
    np.testing.assert_array_equal(read_neighbours(merged[5:], 7)[0], ids[5:])


def test_a_task_with_an_inverted_file_that_another_process_made(search):
    queries, shards, _, _ = search
    task = SearchTask(queries, shards[0], 4, Plan("ivf", Product(), lists=8))
    probed, recall = prepare_index(task, 0.9)
    assert recall >= 0.9
    found, _ = read_neighbours(SearchWorker(replace(task, probed=probed)).process(rows(IDS)), 4)
    exact, _ = read_neighbours(SearchWorker(replace(task, how=EXACT)).process(rows(IDS)), 4)
    assert np.mean([len(set(a) & set(b)) / 4 for a, b in zip(found, exact, strict=True)]) >= 0.85


def test_an_inverted_file_that_finds_too_few_is_not_written_where_exact_search_is_the_way_out(search, monkeypatch):
    def too_few(*_, **__):
        raise RecallTooLow("too few")

    queries, shards, _, _ = search
    monkeypatch.setattr(inverted_file, "tune", too_few)
    how = Plan("ivf", Product(), lists=8, exact_seconds=1234.0)
    with pytest.raises(RecallTooLow, match=r"too few\. Exact search takes about 1,234 s"):
        prepare_index(SearchTask(queries, shards[0], 4, how), 0.95)
    task = SearchTask(queries, shards[0], 4, replace(how, falls_back=True))
    assert prepare_index(task, 0.95) == (0, 1.0)
    assert not storage.exists(storage.join(shards[0], "index"))


def test_merged_results_are_those_of_faiss():
    import faiss

    random = np.random.default_rng(3)
    scores = -np.sort(-random.random((3, 20, 6), dtype=np.float32), axis=2)
    ids = random.permutation(3 * 20 * 6).reshape(3, 20, 6)
    expected = faiss.merge_knn_results(scores, ids, keep_max=True)
    found = merge([(i, s) for i, s in zip(ids, scores, strict=True)], 6)
    np.testing.assert_array_equal(found[0], expected[1])
    np.testing.assert_array_equal(found[1], expected[0])


def test_a_merge_puts_itself_first_then_ties_by_id_and_unused_places_last():
    inf = np.inf
    first = np.array([[9, 4, -1]]), np.array([[1.0, 0.5, -inf]], np.float32)
    second = np.array([[7, 2, 3]]), np.array([[1.0, 1.0, 0.1]], np.float32)
    ids, scores = merge([first, second], 6, own=np.array([7]))
    assert ids.tolist() == [[7, 2, 9, 4, 3, -1]]
    assert scores[0].tolist() == pytest.approx([1, 1, 1, 0.5, 0.1, -inf])
