"""What a column alone says of the class: intervals against the literature, planted leaks, and columns without any."""

import numpy as np
import pyarrow as pa
import pytest

from fgvr.config.metadata import Metadata
from fgvr.evaluation.leaks import powers
from fgvr.metadata.fitted import fit
from fgvr.metrics.bootstrap import wilson


def test_wilson_intervals():
    # Newcombe 1998, table I, method 3: 81 of 263 and 15 of 148.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson(0, 0) == (0, 1)
    assert wilson(0, 10)[0] == 0
    assert wilson(10, 10)[1] == pytest.approx(1)


def judged(texts, kinds, classes, groups=None):
    columns = {name: pa.array(values, pa.string()) for name, values in texts.items()}
    fitted, _ = fit(columns, Metadata(columns=kinds))
    return {one.column: one for one in powers(fitted, columns, fitted.encode(columns), classes, groups=groups)}


def test_columns_that_say_the_class_are_reported_and_others_are_not():
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 4, 400)
    texts = {
        "code": [f"c{label}" for label in classes],
        "weight": [str(10 * label + rng.normal()) for label in classes],
        "noise": [str(rng.normal()) for _ in classes],
        "brand": [rng.choice(["a", "b"]) for _ in classes],
        "same": ["x"] * 400,
        "none": [None] * 400,
    }
    kinds = {"code": "category", "weight": "number", "noise": "log", "brand": "category", "same": "category"}
    found = judged(texts, kinds | {"none": "number"}, classes)
    assert found["code"].accuracy == 1
    assert {name for name, one in found.items() if one.suspicious} == {"code", "weight"}
    assert found["code"].rows == 200
    assert "100.0 of 100 photos held out" in found["code"].remark()
    assert found["same"].accuracy == found["same"].majority


def test_an_id_of_groups_says_the_class_only_where_groups_are_torn_apart():
    rng = np.random.default_rng(0)
    senders = np.repeat(np.arange(40), 10)
    favourite = rng.integers(0, 5, 40)
    texts = {"sender": [str(sender) for sender in senders]}
    classes = favourite[senders]
    at_random = judged(texts, {"sender": "category"}, classes)["sender"]
    by_sender = judged(texts, {"sender": "category"}, classes, groups=senders.tolist())["sender"]
    assert at_random.suspicious
    assert at_random.accuracy > 0.95
    assert not by_sender.suspicious


def test_few_or_no_photos_with_a_class_say_nothing():
    classes = np.full(50, -1)
    none = judged({"a": ["x"] * 50}, {"a": "category"}, classes)["a"]
    assert (none.rows, none.suspicious) == (0, False)
    few = judged({"a": [str(n % 2) for n in range(20)]}, {"a": "category"}, np.arange(20) % 2)["a"]
    assert few.accuracy == 1
    assert not few.suspicious
