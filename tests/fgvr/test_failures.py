"""Failed rows in words: the count and the first row of each reason, safe to show."""

import pyarrow as pa
import pytest

from fgvr.failures import LONGEST, Example, Failures, earliest, one_line
from fgvr.schemas import ANSWERS, ERROR, Failure, Reason


def rows(*failed: tuple[int, str, str]) -> pa.Table:
    """Rows with these ids, reasons and words, and a good one behind each."""
    found = []
    for image_id, reason, detail in failed:
        found += [
            {"image_id": image_id, "error": {"reason": reason, "detail": detail}},
            {"image_id": image_id + 1000, "error": None},
        ]
    return pa.Table.from_pylist(found, schema=ANSWERS)


REJECTED = "HTTP 400: this model takes no temperature"


def test_of_each_reason_the_count_and_the_row_of_the_lowest_id() -> None:
    table = rows((9, "request_rejected", "later"), (4, "request_rejected", REJECTED), (7, "corrupt", "cut off"))
    found = Failures.in_rows(table, {4: "/data/cats/tom.png", 9: "/data/cats/kit.png"})
    assert found.counts == {"request_rejected": 2, "corrupt": 1}
    assert found.lines() == [
        f"request_rejected (2), e.g. image 4 (cats/tom.png): {REJECTED}",
        "corrupt (1), e.g. image 7: cut off",
    ]


def test_tables_without_failed_rows_or_errors_have_none() -> None:
    assert Failures.in_rows(ANSWERS.empty_table()).lines() == []
    assert Failures.in_rows(rows()).lines() == []
    assert Failures.in_rows(pa.table({"image_id": [1, 2]})).lines() == []
    assert Failures.in_rows(pa.table({"error": pa.nulls(2, ERROR.type)})).lines() == []


def test_parts_in_any_order_give_the_same_example() -> None:
    parts = [Failures.in_rows(rows((n, "corrupt", f"row {n}"))) for n in (3, 1, 2)]
    for order in ((0, 1, 2), (1, 2, 0), (2, 1, 0)):
        whole = Failures()
        for place in order:
            whole.add(parts[place])
        assert whole.lines() == ["corrupt (3), e.g. image 1: row 1"]
    assert earliest([]) == {}


def test_an_image_that_the_words_name_is_not_named_twice() -> None:
    path = "/lists/images\\0.png"
    words = Example(0, f"there is nothing at {path}", path).words()
    assert words == f"there is nothing at {path}"
    line = Failures.in_rows(rows((0, "not_found", words)), {0: path}).lines()[0]
    assert line.startswith(f"not_found (1), e.g. there is nothing at {path} [")
    assert "table's folder" in line  # the usual remedy


def test_what_footers_and_manifests_keep_comes_back_and_older_ones_have_counts_only() -> None:
    found = Failures.in_rows(rows((5, "refused", "I cannot say")), {5: "s3://b/x/5.jpg"})
    again = Failures.from_json(dict(found.counts), found.examples_json())
    assert again == found
    assert Failures.from_json({"refused": 2}, None).lines() == ["refused (2)"]
    again.add(Failures.from_json({"refused": 2}, None))
    assert again.lines() == ["refused (3), e.g. image 5 (x/5.jpg): I cannot say"]


def test_hostile_words_are_one_short_line_without_secrets() -> None:
    hostile = "no\x1b[2J\nsuch\u202e host https://me:hunter2@h/?token=abcdef " + "x" * 3000
    failure = Failure(Reason.UNREADABLE, hostile)
    example = Example.of(3, failure, "https://me:hunter2@h/a/b\x1b]0;t\x07.jpg?X-Amz-Signature=feed")
    line = example.words()
    assert line.startswith("image 3 (a/b")
    assert line.isprintable()
    assert len(line) < LONGEST + 120
    for secret in ("hunter2", "abcdef", "feed"):
        assert secret not in f"{example}{line}"


@pytest.mark.parametrize(("text", "shown"), [("a\n b\t c", "a b c"), ("", ""), ("y" * 12, "y" * 9 + "…")])
def test_one_line(text: str, shown: str) -> None:
    assert one_line(text, 10) == shown


def test_of_many_reasons_a_message_spells_out_the_most_frequent() -> None:
    counts = {"corrupt": 5, "refused": 4, "not_found": 3, "empty_file": 2, "engine_error": 1}
    found = Failures.from_json(counts, {reason: {"image_id": 1, "detail": "why"} for reason in counts})
    words = found.in_words()
    assert words.count(", e.g. ") == 3
    assert words.endswith("; empty_file (2), engine_error (1)")
