import tracemalloc
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import kstest, norm

from fgvr import schemas
from fgvr.schemas import Failure, Reason
from fgvr.tables import Table, write_part
from fgvr.training.assemble import (
    HeldOut,
    _mixed,
    assemble,
    class_mean_answers,
    p_yes_of,
    pool_targets,
    random_p_yes,
    split_rows,
    true_classes,
)
from fgvr.training.examples import AspectAnswers, Examples
from fgvr.training.targets import TargetError, true_targets

ERROR = {"reason": "corrupt", "detail": "x"}
NO_ASPECTS = np.zeros((4, 0), dtype=np.float32)


def committed(folder, rows: pa.Table, rows_per_part: int) -> Table:
    starts = range(0, rows.num_rows, rows_per_part)
    for number, start in enumerate(starts):
        write_part(str(folder), number, rows.slice(start, rows_per_part))
    table = Table(str(folder), "t", "f", rows.num_rows, 0, len(starts), rows_per_part, 0.0)
    table.commit()
    return table


@pytest.fixture
def samples() -> pa.Table:
    return pa.table(
        {
            "image_id": [0, 2, 3, 5],
            "uri": ["a", "b", "c", "d"],
            "class_id": pa.array([4, None, 1, 4], pa.int32()),
            "class_name": ["finch", None, "robin", "finch"],
        }
    )


def test_split_rows_reads_one_split(tmp_path):
    rows = pa.table({"image_id": [0, 1, 2], "uri": ["a", "b", "c"], "split": ["train", "test", "train"]})
    assert split_rows(committed(tmp_path, rows, 2), "train", [])["uri"].to_pylist() == ["a", "c"]


def test_true_targets_leave_images_without_class_out(samples):
    targets = true_targets(true_classes(samples))
    training_set = assemble(samples, targets, NO_ASPECTS, HeldOut(0, 0), "v1")
    assert training_set.examples.uris == ["a", "c", "d"]
    assert training_set.examples.classes.tolist() == [1, 0, 1]
    assert targets.labels == ("robin", "finch")
    table = training_set.table({1: Failure(Reason.CORRUPT, "x")})
    assert table.schema.equals(schemas.STUDENT_TARGETS)
    assert table["image_id"].to_pylist() == [0, 3, 5]  # nobody asked for image 2
    assert table["label_id"].to_pylist() == [1, None, 1]
    assert table["error"].to_pylist() == [None, ERROR, None]


def test_images_without_class_stay_where_the_recipe_learns_from_them(samples):
    targets = true_targets(true_classes(samples))
    training_set = assemble(samples, targets, NO_ASPECTS, HeldOut(0.5, 0), "v1", unlabelled=True)
    examples = training_set.examples
    assert examples.uris == ["a", "b", "c", "d"]
    assert examples.classes.tolist() == [1, -1, 0, 1]
    assert not examples.held_out[1]  # nothing can be validated on it
    table = training_set.table({0: Failure(Reason.CORRUPT, "x")})
    assert table["image_id"].to_pylist() == [0, 2, 3, 5]
    assert table["label_id"].to_pylist() == [None, None, 0, 1]
    assert table["error"].to_pylist() == [ERROR, None, None, None]


def test_a_fraction_takes_its_share_of_images_without_class():
    classes = pa.array([0] * 20 + [None] * 40, pa.int32())
    names = pa.array(["finch"] * 20 + [None] * 40)
    columns = {"image_id": np.arange(60), "uri": ["x"] * 60, "class_id": classes, "class_name": names}
    rows = pa.table(columns)
    targets = true_targets(true_classes(rows))
    no_aspects = np.zeros((60, 0), np.float32)
    examples = assemble(rows, targets, no_aspects, HeldOut(0, 0, fraction=0.5), "v1", unlabelled=True).examples
    assert [int((examples.classes == label).sum()) for label in (0, -1)] == [10, 20]
    labelled = assemble(rows, targets, no_aspects, HeldOut(0, 0, fraction=0.5), "v1").examples
    assert labelled.classes.tolist() == [0] * 10


def pool_of(folder, rows: list[dict]) -> Table:
    table = committed(folder, pa.Table.from_pylist(rows, schemas.POOL), 2)
    return replace(table, extra={"by": "near"})


def test_the_pool_gives_classes_weights_and_probable_names(samples, tmp_path):
    rows = [
        {"image_id": 0, "label_ids": [1], "probabilities": [1.0], "weight": 4.0, "kind": "checked"},
        {"image_id": 2, "error": ERROR},
        {"image_id": 3, "label_ids": [0, 1], "probabilities": [0.75, 0.25], "weight": 0.5, "kind": "near"},
        {"image_id": 5, "label_ids": [2], "probabilities": [1.0], "weight": 0.0, "kind": "near"},
    ]
    targets = pool_targets(pool_of(tmp_path, rows), ("x", "y", "z"))
    assert targets.classes.tolist() == [1, -1, 0, 2]
    assert targets.source == "near"
    assert targets.weights.tolist() == [4, 0, 0.5, 0]
    assert targets.soft.label_ids.tolist() == [[1, -1], [-1, -1], [0, 1], [2, -1]]
    assert targets.soft.probabilities.tolist() == [[1, 0], [0, 0], [0.75, 0.25], [1, 0]]
    made = assemble(samples, targets, NO_ASPECTS, HeldOut(0, 0), "v1")
    assert made.examples.image_ids.tolist() == [0, 3, 5]
    assert made.examples.weights.tolist() == [4, 0.5, 0]
    assert made.examples.soft.label_ids.tolist() == [[1, -1], [0, 1], [2, -1]]
    table = made.table({})
    assert table["image_id"].to_pylist() == [0, 2, 3, 5]
    assert table["error"].to_pylist()[1]["reason"] == "no_input"
    made.examples.write(str(tmp_path / "written"))
    back = Examples.read(str(tmp_path / "written"))
    assert back.weights.tolist() == made.examples.weights.tolist()
    assert back.soft.probabilities.tolist() == made.examples.soft.probabilities.tolist()
    assert back.first_aspects(0).soft is not None


def test_of_a_pool_with_one_name_each_nothing_but_the_classes_is_kept(samples, tmp_path):
    rows = [
        {"image_id": n, "label_ids": [n % 2], "probabilities": [1.0], "weight": 1.0, "kind": "near"}
        for n in (0, 2, 3, 5)
    ]
    targets = pool_targets(pool_of(tmp_path, rows), ("x", "y"))
    assert targets.classes.tolist() == [0, 0, 1, 1]
    assert (targets.weights, targets.soft) == (None, None)


def test_a_pool_in_which_no_name_counts_is_refused(tmp_path):
    rows = [{"image_id": 0, "label_ids": [0], "probabilities": [1.0], "weight": 0.0, "kind": "near"}]
    with pytest.raises(TargetError, match="no training image has a name that counts"):
        pool_targets(pool_of(tmp_path, rows), ("x",))


def test_images_without_answers_have_the_means_of_their_class():
    nan = np.nan
    p_yes = np.array([[0.2, nan], [0.6, 1.0], [nan, nan], [nan, nan], [0.5, 0.5], [nan, nan]], np.float32)
    classes = np.array([0, 0, 0, 1, -1, -1])  # nothing was answered about class 1; two images have no class
    found = class_mean_answers(AspectAnswers.of(p_yes), classes, 2)
    np.testing.assert_allclose(
        np.asarray(found), [[0.2, nan], [0.6, 1.0], [0.4, 1.0], [nan, nan], [0.5, 0.5], [nan, nan]], atol=1e-6
    )
    assert found.rows.tolist() == [0, 1, 2, 4]
    kept = found.chosen(np.array([False, True, True, True, False, False]))
    np.testing.assert_allclose(np.asarray(kept), [[0.6, 1.0], [0.4, 1.0], [nan, nan]], atol=1e-6)
    made = Examples(np.arange(6), list("abcdef"), classes, found, np.zeros(6, bool), "v1")
    assert made.first_aspects(1).answers[2].tolist() == pytest.approx([0.4])


def test_p_yes_is_nan_where_the_mllm_failed_or_was_not_asked(samples, tmp_path):
    aspects = pa.Table.from_pylist(
        [
            {"image_id": 5, "p_yes": [0.25, 1.0]},
            {"image_id": 0, "p_yes": None, "error": ERROR},
            {"image_id": 3, "p_yes": [0.5, 0.0]},
        ],
        schemas.aspects(2),
    )
    aspects = committed(tmp_path, aspects, 3).read()  # Parquet must give rows without values back
    p_yes = p_yes_of(samples["image_id"].to_numpy(), aspects, 2)
    assert np.isnan(p_yes[:2]).all()
    assert p_yes[2:].tolist() == [[0.5, 0.0], [0.25, 1.0]]
    with pytest.raises(ValueError, match="other questions"):
        p_yes_of(samples["image_id"].to_numpy(), aspects, 3)
    training_set = assemble(samples, true_targets(true_classes(samples)), p_yes, HeldOut(0, 0), "v1")
    assert training_set.table({})["aspects"].to_pylist() == [False, True, True]


def test_the_validation_share_is_held_out(samples):
    training_set = assemble(samples, true_targets(true_classes(samples)), NO_ASPECTS, HeldOut(0.3, 0), "v1")
    assert training_set.examples.held_out.sum() == 1
    assert training_set.examples.classes[training_set.examples.held_out].tolist() == [1]  # robin has one image only


def test_a_fraction_is_drawn_before_the_validation_share_and_is_no_failure(samples):
    targets = true_targets(true_classes(samples))
    for seed in range(5):
        training_set = assemble(samples, targets, NO_ASPECTS, HeldOut(0.4, seed, fraction=0.5), "v1")
        assert sorted(training_set.examples.classes.tolist()) == [0, 1]  # 1.5 of three images; one of every class
        assert not training_set.examples.held_out.any()
        table = training_set.table({})
        assert (table.num_rows, table["error"].null_count) == (2, 2)


def test_nothing_to_learn_is_an_error(samples):
    unlabelled = samples.set_column(2, "class_id", pa.array([None] * 4, pa.int32()))
    with pytest.raises(TargetError, match="no training image has a true class"):
        true_targets(true_classes(unlabelled))


def test_random_answers_are_fixed_by_seed_image_and_question():
    ids = np.array([3, 10**9, 7])
    drawn = random_p_yes(ids, 400, seed=1)
    np.testing.assert_array_equal(random_p_yes(ids[[1]], 400, seed=1), drawn[[1]])
    np.testing.assert_array_equal(random_p_yes(ids, 5, seed=1), drawn[:, :5])
    assert not np.array_equal(random_p_yes(ids, 400, seed=2), drawn)
    # sigmoid(N(0, 1)): the logits are normal.
    logits = np.log(drawn / (1 - drawn)).ravel()
    assert kstest(logits, "norm").pvalue > 0.01
    assert random_p_yes(ids[:0], 4, 0).shape == (0, 4)
    assert random_p_yes(ids, 0, 0).shape == (3, 0)
    # Neighbouring images, questions and seeds have nothing in common: correlations of 0 ± 1 / √n.
    many = np.arange(2000, dtype=np.int64)
    one, other = (norm.ppf(random_p_yes(many, 50, seed).astype(float)) for seed in (7, 8))
    for first, second in ((one[1:], one[:-1]), (one[:, 1:], one[:, :-1]), (one, other)):
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 5 / np.sqrt(first.size)


def test_the_hash_is_splitmix64():
    # The generator's published test values: its first outputs from the state 1234567.
    states = np.array([1234567 + step * 0x9E3779B97F4A7C15 & 2**64 - 1 for step in range(3)], dtype=np.uint64)
    assert _mixed(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_random_answers_of_many_images_are_made_in_blocks(monkeypatch):
    ids = np.arange(50, dtype=np.int64) * 10**9
    whole = random_p_yes(ids, 7, seed=3)
    monkeypatch.setattr("fgvr.training.assemble.RANDOM_BLOCK", 15)
    np.testing.assert_array_equal(random_p_yes(ids, 7, seed=3), whole)
    monkeypatch.undo()
    tracemalloc.start()
    drawn = random_p_yes(np.arange(300_000), 10, seed=0)
    peak = tracemalloc.get_traced_memory()[1] - drawn.nbytes
    tracemalloc.stop()
    assert peak < 2e7  # a block's words, radii and angles; all at once would take 100 MB
