"""One sample of the training images for the questions and for the students, without Ray."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fgvr.config import build
from fgvr.sources.sampling import discovery_ids
from fgvr.tables import Table, write_part
from pipelines import embed
from pipelines.aspects import aspect_ids
from pipelines.run_tables import Look, Run
from pipelines.student_task import learned_rows, student_task

TRAIN, TEST = 400, 50


@pytest.fixture
def samples(tmp_path: Path) -> Table:
    count = TRAIN + TEST
    rows = {
        "image_id": np.arange(count),
        "uri": [f"/photos/{number}.jpg" for number in range(count)],
        "split": ["train"] * TRAIN + ["test"] * TEST,
        "class_id": pa.array([number % 4 for number in range(count)], pa.int32()),
        "class_name": [f"kind {number % 4}" for number in range(count)],
    }
    write_part(str(tmp_path), 0, pa.table(rows))
    return Table(
        str(tmp_path), "samples", "f", count, 0, 1, count, 1.0, extra={"splits": {"train": TRAIN, "test": TEST}}
    )


def run_of(samples: Table, values: dict[str, Any]) -> Run:
    return Look(build(values), "/no/such/run", given={"samples": samples})


def learned(samples: Table, values: dict[str, Any]) -> set[int]:
    return set(learned_rows(run_of(samples, values))["image_id"].to_pylist())


def test_students_learn_from_the_images_that_were_asked_about_and_from_no_others(samples: Table) -> None:
    values = {"aspects": {"max_images": 60, "seed": 4}}
    asked = set(aspect_ids(run_of(samples, values)).tolist())
    assert len(asked) == 60
    assert learned(samples, values) == asked
    # The MLLM's names are of the same images, where both draw from one split by one seed.
    images = build({"label": {"images": {"max_images": 60, "seed": 4}}}).label.images
    assert set(discovery_ids(samples.batches(["image_id", "split", "class_id"]), images).tolist()) == asked


def test_a_larger_sample_only_adds(samples: Table) -> None:
    sizes = [learned(samples, {"aspects": {"max_images": count}}) for count in (20, 60, 399)]
    assert [len(found) for found in sizes] == [20, 60, 399]
    assert sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize(
    "values",
    [
        {"aspects": {"max_images": 60}, "makd": {"images": "all"}},
        {"aspects": {"max_images": None}},
        {"aspects": {"max_images": TRAIN}},
    ],
)
def test_all_of_the_split_where_nothing_bounds_it(samples: Table, values: dict[str, Any]) -> None:
    assert learned(samples, values) == set(range(TRAIN))
    # Images that were not asked about count in the mean over aspects, which a student without aspects has none of.
    decides = {"unasked": "count"} if "makd" in values else {}
    assert student_task(run_of(samples, values), build(values).makd).decides == decides
    base = build(values).makd.model_copy(update={"alpha": 0.0})
    assert student_task(run_of(samples, values), base).decides == {}


def test_which_images_they_are_decides_both_students(samples: Table) -> None:
    def decided(seed: int, alpha: float) -> dict[str, Any]:
        values = {"aspects": {"max_images": 60, "seed": seed}, "makd": {"alpha": alpha}}
        return student_task(run_of(samples, values), build(values).makd).decides

    assert decided(1, 0.0)  # the base student reads no table that would tell
    assert decided(1, 0.0) == decided(1, 4.0)
    assert decided(1, 0.0) != decided(2, 0.0)


def test_vectors_are_needed_of_what_is_named_learned_from_or_evaluated_on(samples: Table) -> None:
    values = {"label": {"images": {"max_images": 30, "seed": 1}}, "aspects": {"max_images": 60, "seed": 4}}
    config = build(values | {"embed": {"images": "needed"}})
    named = set(discovery_ids(samples.batches(["image_id", "split", "class_id"]), config.label.images).tolist())
    needed = set(embed._needed(run_of(samples, values | {"embed": {"images": "needed"}})).tolist())
    assert needed == named | learned(samples, values) | set(range(TRAIN, TRAIN + TEST))
    assert len(needed) < 30 + 60 + TEST  # the samples of two seeds overlap, or all of them would be one
