"""Structured answers: the form, how replies are read, and what confidences weigh, by hand."""

import json
import re
from fractions import Fraction

import pyarrow as pa
import pytest

from fgvr import schemas
from fgvr.mllm.backend import Answer
from fgvr.mllm.label_worker import answer_rows
from fgvr.names.aliases import AliasTable
from fgvr.names.label_space import build_label_space, count_items, label_rows
from fgvr.names.structured import (
    StructuredNames,
    answer_pattern,
    answer_schema,
    extra_tokens,
    instruction,
    read_structured,
)
from fgvr.schemas import Failure, Reason


def failed(text: str, listed: int = 1, *, cut: bool = False) -> tuple[Reason, str]:
    found = read_structured(text, listed, cut=cut)
    assert isinstance(found, Failure)
    return found.reason, found.detail


def shares(text: str, listed: int = 3) -> dict[str, Fraction]:
    found = read_structured(text, listed)
    assert isinstance(found, StructuredNames)
    assert sum(found.shares) == 1
    return dict(zip(found.names, found.shares, strict=True))


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "7UP Zero, 1.5 l"}',
        ' {\n  "name" : "7UP Zero, 1.5 l"\n}\n',
        '```json\n{"name": "7UP Zero, 1.5 l", "note": "a bottle"}\n```',
        '<think>a bottle</think>{"name": "7UP Zero, 1.5 l"}',
    ],
)
def test_one_name_as_it_stands(text: str) -> None:
    assert read_structured(text, 1) == StructuredNames(("7UP Zero, 1.5 l",), (Fraction(1),))


@pytest.mark.parametrize("name", ["not visible", "Not visible.", "NOT_VISIBLE", "", " ", None])
def test_nothing_to_be_seen_has_a_reason_of_its_own(name: str | None) -> None:
    assert failed(json.dumps({"name": name}))[0] is Reason.NOTHING_THERE
    assert failed(json.dumps({"names": [{"name": name, "confidence": 99}]}), 2)[0] is Reason.NOTHING_THERE


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("The bird is a Wren.", 1),
        ('Here you go: {"name": "Wren"}', 1),
        ('["Wren"]', 1),
        ('"Wren"', 1),
        ('{"label": "Wren"}', 1),
        ('{"name": ["Wren"]}', 1),
        ('{"name": 7}', 1),
        ('{"name": "Wren"}', 3),
        ('{"names": []}', 3),
        ('{"names": ["Wren", "Robin"]}', 3),
        ('{"names": [{"name": "Wren"}, {"confidence": 3}]}', 3),
        ("[" * 100_000, 1),
        ('{"name": ' + "9" * 5000 + "}", 1),
    ],
)
def test_what_is_not_of_the_schema_is_no_answer(text: str, listed: int) -> None:
    reason, detail = failed(text, listed)
    assert reason is Reason.EMPTY_ANSWER
    assert not detail.startswith("cut off")
    assert len(detail) < 400


def test_json_that_was_cut_off_says_so() -> None:
    for text in ('{"name": "2011 Ford Ranger Super', '{"names": [{"name": "Wren", "confidence": 60}, {"na', ""):
        assert failed(text, cut=True)[1].startswith("cut off: ")
    # The limit came with the last brace: all of it is there.
    assert read_structured('{"name": "Wren"}', 1, cut=True) == StructuredNames(("Wren",), (Fraction(1),))


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ([60, 30, 10], [0.6, 0.3, 0.1]),
        ([0.5, 0.25], [2 / 3, 1 / 3]),
        (["80%", "20 %"], [0.8, 0.2]),
        (["0.3", "0.1"], [0.75, 0.25]),
        ([70, 0, 30], [0.7, None, 0.3]),  # 0: not claimed
        ([0, 0], [0.5, 0.5]),
        ([90, -5], [0.5, 0.5]),
        ([90, None], [0.5, 0.5]),
        ([90, True], [0.5, 0.5]),
        ([90, "high"], [0.5, 0.5]),
        ([90, "nan"], [0.5, 0.5]),
        ([90, float("nan")], [0.5, 0.5]),
        ([float("inf"), 1], [0.5, 0.5]),
        ([10**400, 10**400], [0.5, 0.5]),
    ],
)
def test_confidences_become_shares(claims: list[object], expected: list[float | None]) -> None:
    names = ["Wren", "Robin", "Finch"][: len(claims)]
    items = [{"name": name, "confidence": claim} for name, claim in zip(names, claims, strict=True)]
    found = shares(json.dumps({"names": items}))
    wanted = {name: share for name, share in zip(names, expected, strict=True) if share is not None}
    assert {name: float(share) for name, share in found.items()} == pytest.approx(wanted)


def test_of_too_many_names_the_first_ones_count() -> None:
    text = json.dumps({"names": [{"name": name, "confidence": 10} for name in ("Wren", "Robin", "Finch")]})
    assert shares(text, 2) == {"Wren": Fraction(1, 2), "Robin": Fraction(1, 2)}


@pytest.mark.parametrize(
    ("text", "listed", "fits"),
    [
        ('{"name": "Kellogg\'s \\"Special K\\" 鳥 é"}', 1, True),
        ('{"name": ""}', 1, False),
        ('{"name": " x"}', 1, False),
        ('{"name":"x"}', 1, False),
        ('{"name": "a\nb"}', 1, False),
        ('{"names": [{"name": "a", "confidence": 100}, {"name": "b", "confidence": 0}]}', 2, True),
        ('{"names": [{"name": "a", "confidence": 101}]}', 2, False),
        ('{"names": [{"name": "a", "confidence": 07}]}', 2, False),
        ('{"names": []}', 2, False),
        ('{"names": [' + ", ".join(['{"name": "a", "confidence": 7}'] * 3) + "]}", 2, False),
    ],
)
def test_the_pattern_lets_the_form_through_and_nothing_else(text: str, listed: int, *, fits: bool) -> None:
    assert (re.fullmatch(answer_pattern(listed), text) is not None) is fits
    if fits:
        assert isinstance(read_structured(text, listed), StructuredNames)


@pytest.mark.parametrize("listed", [1, 3])
def test_the_schema_is_closed_and_the_prompt_shows_its_form(listed: int) -> None:
    schema = answer_schema(listed)
    if listed > 1:
        names = schema["properties"]["names"]
        assert (names["minItems"], names["maxItems"]) == (1, listed)
        assert schema["required"] == ["names"]
        assert schema["additionalProperties"] is False
        schema = names["items"]
    assert schema["required"] == list(schema["properties"])
    assert schema["additionalProperties"] is False
    assert "JSON" in instruction(listed)  # OpenAI's json_object wants the word
    assert '"not visible"' in instruction(listed)


@pytest.mark.parametrize("listed", [1, 2, 10])
def test_there_are_tokens_for_all_of_the_form(listed: int) -> None:
    name = "x" * 32  # as many tokens as label.max_tokens, of a tokenizer whose tokens are bytes
    answer = {"name": name} if listed == 1 else {"names": [{"name": name, "confidence": 100}] * listed}
    assert len(json.dumps(answer, indent=2)) <= 32 * listed + extra_tokens(listed)


def test_weights_and_reasons_of_structured_answers() -> None:
    def listing(**claims: float) -> str:
        return json.dumps({"names": [{"name": name, "confidence": claim} for name, claim in claims.items()]})

    rows = [
        {"image_id": 1, "texts": [listing(Wren=60, Robin=40), listing(Robin=80, wren=20)], "cut": [False, False]},
        {"image_id": 2, "texts": [listing(wren=50, WREN=30, Finch=20)], "cut": [False]},
        {"image_id": 3, "texts": ['{"names": [{"name": "Not visible", "confidence": 99}]}'], "cut": [False]},
        {"image_id": 4, "texts": ['{"names": [{"name": "Wren", "confid'], "cut": [True]},
        {"image_id": 5, "texts": ["It is a Stork."], "cut": [False]},
    ]
    table = pa.Table.from_pylist(rows, schema=schemas.ANSWERS)
    named = build_label_space(count_items([table], 3, structured=True))
    assert named.space.labels == (
        "Finch",
        "Robin",
        "wren",
    )  # no Stork: it was said otherwise
    limit = "label.max_tokens = 32 (× 3 labels)"
    first, second, unseen, cut, prose = label_rows(table, named, 3, structured=True, limit=limit).to_pylist()
    # (0.4 + 0.8) / 2 and (0.6 + 0.2) / 2; the raw answer is the first that names the label.
    assert first["candidate_ids"] == [1, 2]
    assert first["candidate_weights"] == pytest.approx([0.6, 0.4])
    assert (first["label"], first["raw"]) == ("Robin", rows[0]["texts"][0])
    assert second["candidate_weights"] == pytest.approx([0.8, 0.2])  # two spellings of one name add up
    assert unseen["error"]["reason"] == "nothing_there"
    assert cut["error"]["reason"] == prose["error"]["reason"] == "empty_answer"
    assert cut["error"]["detail"].startswith(f"cut off at {limit} before it answered; raise label.max_tokens: ")
    assert "Stork" in prose["error"]["detail"]


def test_a_field_bounds_its_name() -> None:
    """What would be a hedge or an article in free words is a part of the name there."""
    names = ["Likely Lads DVD", "A Bug's Life", "Perhaps Perfume 50 ml", "Wren"]
    answers = [[Answer(json.dumps({"name": name}), 0.0, 1, 1)] for name in [*names, "a Wren.", "none"]]
    table = answer_rows(range(6), answers)
    named = build_label_space(count_items([table], 1, structured=True))
    rows = label_rows(table, named, structured=True).to_pylist()
    assert [row["label"] for row in rows] == [*names, "Wren", None]
    chosen = AliasTable({"likely lads dvd": "The Likely Lads"})  # and a person's choice is found by the name
    named = build_label_space(count_items([table], 1, structured=True), chosen)
    assert "The Likely Lads" in named.space.labels
