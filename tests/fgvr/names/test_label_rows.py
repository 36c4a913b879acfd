"""Weighted candidates of an image from its answers, by hand."""

from fractions import Fraction

import pyarrow as pa
import pytest

from fgvr import schemas
from fgvr.names.label_space import build_label_space, count_items, label_rows, weigh
from fgvr.schemas import Reason

ANSWERS = [
    {"image_id": 3, "texts": ["a Wren.", "Robin", "wren", None], "logprobs": [-1.0, -0.5, -2.0, None]},
    {"image_id": 5, "texts": ["I don't know", "Robin", "Finch", "Finch"], "logprobs": [-1.0, -3.0, -4.0, -5.0]},
    {"image_id": 8, "texts": ["", "I am not sure"], "logprobs": [None, -1.0]},
    {"image_id": 9, "texts": ["Stork", None], "logprobs": [-1.0, None], "error": {"reason": "engine_error"}},
]


def answers_table() -> pa.Table:
    tokens = {"prompt_tokens": 40, "output_tokens": 6}
    rows = [{**tokens, **row, "error": row.get("error") and {"detail": "x", **row["error"]}} for row in ANSWERS]
    return pa.Table.from_pylist(rows, schema=schemas.ANSWERS)


def test_the_share_of_the_answers_is_the_weight() -> None:
    table = answers_table()
    named = build_label_space(count_items([table.slice(0, 1), table.slice(1)], 1))
    assert named.space.labels == ("Finch", "Robin", "Wren")
    rows = label_rows(table, named)
    assert rows.schema.equals(schemas.LABELS)
    first, second, none, broken = rows.to_pylist()
    assert (first["label"], first["label_id"], first["raw"], first["logprob"]) == ("Wren", 2, "a Wren.", -1.0)
    assert first["candidate_ids"] == [2, 1]
    assert first["candidate_weights"] == pytest.approx([2 / 3, 1 / 3])  # the lost answer has no vote
    assert (first["prompt_tokens"], first["output_tokens"], first["error"]) == (40, 6, None)
    # The refusal has no vote either; the raw answer shown is the first that gave the label.
    assert (second["label"], second["raw"], second["logprob"]) == ("Finch", "Finch", -4.0)
    assert second["candidate_weights"] == pytest.approx([2 / 3, 1 / 3])
    assert (none["label"], none["label_id"], none["candidate_ids"], none["raw"]) == (None, None, [], "")
    assert none["error"]["reason"] == "empty_answer"
    assert (broken["label"], broken["candidate_ids"], broken["error"]["reason"]) == (None, [], "engine_error")


def test_listed_names_share_the_vote_of_their_answer() -> None:
    texts = ["1. Robin\n2. Wren\n3. robin", "Wren, Finch, Robin"]
    named = build_label_space({item: 1 for text in texts for item in ("Robin", "Wren", "Finch")})
    found = weigh(texts, named, listed=3)
    # Robin and Wren: 1/2 + 1/3 each, a tie that the first said name wins; Finch: 1/3 of two votes.
    assert list(found.weights.items()) == [
        ("Robin", Fraction(5, 12)),
        ("Wren", Fraction(5, 12)),
        ("Finch", Fraction(1, 6)),
    ]
    assert (found.label, found.answer) == ("Robin", 0)


def test_spellings_and_aliases_become_one_candidate() -> None:
    named = build_label_space({"House Sparrow": 2, "house-sparrow": 1, "Wren": 1})
    assert weigh(["house-sparrow", "Wren", "House Sparrow"], named, 1).weights == {
        "House Sparrow": Fraction(2, 3),
        "Wren": Fraction(1, 3),
    }


def test_no_answer_at_all() -> None:
    failure = weigh([None, None], build_label_space({}), 1).failure
    assert failure is not None
    assert failure.reason is Reason.EMPTY_ANSWER


def test_an_item_counts_once_an_image() -> None:
    table = pa.table({"texts": [["Wren", "Wren", None], ["Wren, Robin"], None, []], "error": pa.nulls(4)})
    assert count_items([table], 1) == {"Wren": 1, "Wren, Robin": 1}
    assert count_items([table], 2) == {"Wren": 2, "Robin": 1}
