"""Columns become features: scales, circles, the globe, vocabularies, and everything that a source may hold."""

import json
import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from fgvr.config.metadata import Metadata
from fgvr.metadata.fitted import FAR, FittedMetadata, MetadataFormatError, fit
from fgvr.metadata.values import circle, dates, plain, sphere


class Lengths:
    """A sentence model: three numbers, of which one is the length that it was shown."""

    name = "lengths"

    def encode(self, names: Sequence[str]) -> np.ndarray:
        return np.array([[len(name), 1, 0] for name in names], np.float32)


def texts(**columns: Sequence[str | None]) -> dict[str, pa.Array]:
    return {name: pa.array(values, pa.string()) for name, values in columns.items()}


def test_a_pole_is_one_point_whatever_its_longitude():
    points = sphere(np.array([90.0, 90, 90]), np.array([0.0, 90, -33]))
    assert (points == [0, 0, 1]).all()
    assert sphere(np.array([0.0]), np.array([90.0]))[0] == pytest.approx([0, 1, 0])
    assert sphere(np.array([60.0]), np.array([180.0]))[0] == pytest.approx([-0.5, 0, math.sqrt(3) / 2])
    west, east = sphere(np.array([10.0, 10]), np.array([-179.99, 179.99]))
    assert np.abs(west - east).max() < 1e-3
    assert np.isnan(sphere(np.array([91.0, np.nan, 0]), np.array([0.0, 0, np.nan]))).all()


def test_december_is_beside_january():
    ends = circle(np.array([12.0, 3, 6]), 12)
    assert ends == pytest.approx(np.array([[0, 1], [1, 0], [0, -1]]), abs=1e-12)


@pytest.mark.parametrize(
    ("text", "month", "day", "hour"),
    [
        ("2021-03-04", 3, 63, None),
        ("2020-12-31T18:30:00", 12, 366, 18.5),
        ("2021-03-04T18:30:00+02:00", 3, 63, 18.5),
        ("2021:03:04 06:15:00", 3, 63, 6.25),  # EXIF
        ("04.03.2021", 3, 63, None),
        ("2021/03/04 12:00:00", 3, 63, 12),
        ("2021-03", 3, None, None),
        ("03/04/2021", None, None, None),  # April or March
        ("2021-13-01", None, None, None),
        ("yesterday", None, None, None),
        ("2021-03-04" + 10**6 * " x", None, None, None),
    ],
)
def test_dates_in_many_forms(text, month, day, hour):
    column = pa.array([text], pa.string())
    for part, wanted in (("month", month), ("day_of_year", day), ("hour", hour)):
        found = dates(column, part)[0]
        assert math.isnan(found) if wanted is None else found == wanted


def test_numbers_in_a_parts_range_are_that_part():
    assert dates(pa.array(["12", "13", "0", None]), "month")[0] == 12
    assert np.isnan(dates(pa.array(["13", "0", None]), "month")).all()


def test_logs_of_numbers_below_zero():
    found = plain(pa.array(["0", "1.718281828", "-1.718281828", "inf", "nan", "1e999", "12 euros"]), log=True)
    assert found[:3] == pytest.approx([0, 1, -1])
    assert np.isnan(found[3:]).all()


def test_scaled_numbers_and_a_missing_flag():
    column = texts(price=[str(n) for n in range(1000)] + [None, "much", "inf"])
    fitted, facts = fit(column, Metadata(columns={"price": "number"}))
    rows = fitted.encode(column)
    assert fitted.dim == 2
    assert abs(float(np.median(rows[:1000, 0]))) < 1e-6
    assert rows[999, 0] == pytest.approx((999 - 499.5) / (0.95 * 999 / 3.92), rel=1e-3)
    assert rows[1000:].tolist() == [[0, 1]] * 3
    assert (facts[0].absent, facts[0].unread, facts[0].constant) == (1, 2, False)
    assert "2 of 1,003" in str(facts[0].remark())
    assert fitted.encode(texts(price=["1e300", "-1e300"]))[:, 0].tolist() == [FAR, -FAR]


def test_huge_numbers_and_rare_flags_have_a_scale():
    column = texts(huge=["1e308", "-1e308", "0"], rare=["true", "false", "false"])
    rows = fit(column, Metadata(columns={"huge": "number", "rare": "number"}))[0].encode(column)
    assert np.isfinite(rows).all()
    flags = texts(rare=["true"] + 99 * ["false"])
    fitted, _ = fit(flags, Metadata(columns={"rare": "number"}))
    rows = fitted.encode(flags)
    # mean .01, deviation sqrt(.01 · .99); 9.95 is cut
    assert rows[:2, 0] == pytest.approx([FAR, -0.01 / math.sqrt(0.0099)])


def test_a_constant_column_and_one_without_values_say_so():
    column = texts(same=["7"] * 5, none=[None] * 5, words=["many"] * 5, bad=["x"] * 5)
    kinds = {"same": "number", "none": "number", "words": "category", "bad": "log"}
    fitted, facts = fit(column, Metadata(columns=kinds))
    rows = fitted.encode(column)
    assert np.isfinite(rows).all()
    assert rows[:, 0].tolist() == [0] * 5
    assert [fact.constant for fact in facts] == [True, False, True, False]
    assert all("says nothing" in str(fact.remark()) for fact in facts)
    assert fitted.encode(texts(same=["8"]))[0, 0] == 0  # one more value does not make a scale


def test_a_vocabulary_and_a_hash_beyond_it():
    column = texts(brand=["a"] * 3 + ["b"] * 2 + [f"rare {n}" for n in range(100_000)] + [None])
    fitted, facts = fit(column, Metadata(columns={"brand": "category"}, vocabulary=2, buckets=8))
    assert fitted.columns[0].vocabulary == ("a", "b")
    assert fitted.dim == 2 + 8 + 1
    assert facts[0].values == 100_002
    rows = fitted.encode(texts(brand=["a", "b", "rare 5", "never seen", None]))
    assert rows[:2, :2].tolist() == [[1, 0], [0, 1]]
    assert rows[2:4, :2].sum() == 0
    assert rows[:4, :10].sum(axis=1).tolist() == [1, 1, 1, 1]
    assert rows[4].tolist() == [0] * 10 + [1]
    again = fitted.encode(texts(brand=["rare 5"]))
    assert (again == rows[2]).all()


def test_texts_of_a_megabyte_are_cut():
    column = texts(title=["a" * 10**6, None, "b"])
    fitted, _ = fit(column, Metadata(columns={"title": "text"}), Lengths())
    rows = fitted.encode(column, Lengths())
    assert rows[:, 3].tolist() == [0, 1, 0]
    assert rows[0, 0] / rows[2, 0] == pytest.approx(2000)
    long = texts(brand=["a" * 10**6, "a" * 10**6, "b"])
    fitted, _ = fit(long, Metadata(columns={"brand": "category"}))
    assert len(json.dumps(fitted.to_json())) < 1000
    assert fitted.encode(long)[:, 0].tolist() == [1, 1, 0]


def test_columns_that_are_not_there_are_missing():
    column = texts(lat=["1"], lon=["2"], month=["3"])
    fitted, _ = fit(column, Metadata(columns={"place": ["lat", "lon"], "month": {"cyclic": 12}}))
    assert fitted.sources == ("lat", "lon", "month")
    rows = fitted.encode(texts(lat=["1", "1"], lon=["2", None]))
    assert rows[0, :3] == pytest.approx(sphere(np.array([1.0]), np.array([2.0]))[0], abs=1e-6)
    assert rows[:, 5:].tolist() == [[0, 1], [1, 1]]
    assert (fitted.none(1) == fitted.encode(texts(month=[None]))).all()


def test_what_is_saved_encodes_the_same():
    column = texts(brand=["ä", "b"], price=["1", "2"], lat=["1", "2"], lon=["3", "4"])
    kinds = {"brand": "category", "price": "log", "place": ["lat", "lon"]}
    fitted, _ = fit(column, Metadata(columns=kinds))
    again = FittedMetadata.of_json(json.loads(json.dumps(fitted.to_json())))
    assert again == fitted
    assert (again.encode(column) == fitted.encode(column)).all()
    with pytest.raises(MetadataFormatError):
        FittedMetadata.of_json({"columns": [{"width": 1}]})
    with pytest.raises(MetadataFormatError):
        FittedMetadata.of_json(None)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("cyclic", "has no period"),
        ({"cyclic": 0}, "above 0"),
        ({"cyclic": True}, "above 0"),
        ("colour", "should be one of"),
        (["lat"], "should be one of"),
    ],
)
def test_kinds_that_do_not_exist_are_refused(kind, said):
    with pytest.raises(ValidationError, match=said):
        Metadata(columns={"a": kind})
