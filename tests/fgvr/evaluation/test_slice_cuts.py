"""Cuts of photos: values, quartiles, missing and rare values, folders."""

import numpy as np
import pyarrow as pa

from fgvr.evaluation.slice_cuts import crossed, cut_by, folders, gathered, group_codes


def sizes(cut) -> dict[tuple[str, ...], int]:
    return {value: int((cut.codes == place).sum()) for place, value in enumerate(cut.values)}


def test_values_and_missing_ones() -> None:
    found = cut_by("kids", pa.chunked_array([["true", None], ["false", "true"]]))
    assert sizes(found) == {("true",): 2, ("false",): 1, ("(none)",): 1}
    assert found.remarks == ()


def test_numbers_are_cut_at_their_quartiles() -> None:
    # 1 … 20 and twice nothing: a quarter of the twenty is five.
    found = cut_by("price", pa.array([*map(str, range(1, 21)), None, "NaN"]))
    assert sizes(found) == {("≤ 5",): 5, ("> 5, ≤ 10",): 5, ("> 10, ≤ 15",): 5, ("> 15",): 5, ("(none)",): 2}
    assert found.remarks == ("price is cut at its quartiles: 5, 10, 15",)
    assert len(cut_by("month", pa.array([str(n % 12) for n in range(50)])).values) == 12
    crowded = cut_by("price", pa.array([*map(str, range(20)), *["100"] * 80]))
    assert sizes(crowded) == {("≤ 19",): 20, ("> 19",): 80}
    many_zeros = cut_by("price", pa.array([*map(str, range(1, 21)), *["0"] * 80]))
    assert sizes(many_zeros) == {("≤ 0",): 80, ("> 0",): 20}


def test_identifiers_are_not_cut() -> None:
    numbers = pa.array([str(n) for n in range(50)])
    for name in ("sender_id", "id", "senderId", "IDs"):
        assert len(cut_by(name, numbers).values) == 50
    assert len(cut_by("paid", numbers).values) == 4
    assert len(cut_by("code", pa.array([f"{n:03}" for n in range(50)])).values) == 50
    assert len(cut_by("class_name", numbers, quantities=False).values) == 50
    assert len(cut_by("share", pa.array([f"0.{n + 10}" for n in range(40)])).values) == 4


def test_a_text_among_numbers_is_told() -> None:
    found = cut_by("price", pa.array([*map(str, range(50)), "on request"]))
    assert len(found.values) == 51
    assert "'on request'" in found.remarks[0]


def test_rare_values_are_gathered_and_missing_ones_stay() -> None:
    found = gathered(cut_by("shop", pa.array(["a", "a", "a", "b", "b", "c", "d", None])), 2)
    assert sizes(found) == {("a",): 3, ("b",): 2, ("(none)",): 1, ("(others)",): 2}
    assert found.remarks == ("shop: 2 rarer values are gathered as (others)",)
    few = cut_by("shop", pa.array(["a", "b", None]))
    assert gathered(few, 2) is few


def test_pairs() -> None:
    one = cut_by("kids", pa.array(["true", "true", "false", None]))
    other = cut_by("shop", pa.array(["a", "a", "b", "b"]))
    assert sizes(crossed(one, other, 9)) == {("true", "a"): 2, ("false", "b"): 1, ("(none)", "b"): 1}
    assert sizes(crossed(one, other, 1)) == {("true", "a"): 2, ("(others)",): 2}


def test_groups_without_a_value_stand_alone() -> None:
    found = group_codes(pa.array(["a", None, "b", "a", None]))
    assert len(set(found.tolist())) == 4
    assert found[0] == found[3]
    assert sorted(set(found.tolist())) == list(range(4))


def test_folders() -> None:
    uris = ["/data/birds/a/1.jpg", "/data/birds/b/x/2.jpg", "/data/birds/3.jpg", "/data/birds/a/4.jpg?sig=1/2"]
    assert folders(uris).to_pylist() == ["a", "b/x", ".", "a"]
    assert folders(["s3://bucket/x/1.jpg"]).to_pylist() == ["."]
    assert folders([]).to_pylist() == []
    assert folders(["1.jpg", "a/2.jpg"]).to_pylist() == [".", "a"]


def test_codes_are_places() -> None:
    found = cut_by("kids", pa.array(["x"] * 3))
    assert found.codes.dtype == np.int64
    assert found.codes.tolist() == [0, 0, 0]
    assert found.remarks == ("kids is the same for all of these photos",)
