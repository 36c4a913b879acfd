"""Answers that list several labels, as models write them."""

import pytest

from fgvr.names.answer_items import answer_items
from fgvr.names.answers import clean_answer
from fgvr.names.listed import listed_names
from fgvr.schemas import Failure, Reason

THREE = ["House Sparrow", "Tree Pipit", "Robin"]


@pytest.mark.parametrize(
    "raw",
    [
        "1. House Sparrow\n2. Tree Pipit\n3. Robin",
        "1) House Sparrow\n2) Tree Pipit\n3) Robin",
        "(1) House Sparrow (2) Tree Pipit (3) Robin",
        "1. House Sparrow 2. Tree Pipit 3. Robin",
        "1. House Sparrow, 2. Tree Pipit, 3. Robin",
        "**1. House Sparrow**\n**2. Tree Pipit**\n**3. Robin**",
        "Label 1: House Sparrow\nLabel 2: Tree Pipit\nLabel 3: Robin",
        "A. House Sparrow\nB. Tree Pipit\nC. Robin",
        "- House Sparrow\n- Tree Pipit\n- Robin",
        "* **House Sparrow**\n* **Tree Pipit**\n* **Robin**",
        "House Sparrow\nTree Pipit\nRobin\n",
        "House Sparrow, Tree Pipit, Robin",
        "House Sparrow, Tree Pipit, and Robin.",
        "House Sparrow, Tree Pipit and Robin",
        "House Sparrow; Tree Pipit; Robin",
        "House Sparrow | Tree Pipit | Robin",
        '["House Sparrow", "Tree Pipit", "Robin"]',
        "['House Sparrow', 'Tree Pipit', 'Robin']",
        '```json\n["House Sparrow", "Tree Pipit", "Robin"]\n```',
        'Sure! {"labels": ["House Sparrow", "Tree Pipit", "Robin"]}',
        '[{"label": "House Sparrow", "p": 0.7}, {"label": "Tree Pipit", "p": 0.2}, {"label": "Robin", "p": 0.1}]',
        '{"House Sparrow": 0.7, "Tree Pipit": 0.2, "Robin": 0.1}',
        '{"1": "House Sparrow", "2": "Tree Pipit", "3": "Robin"}',
        '["House Sparrow", "Tree Pipit", "Robin", "Bar-tailed God',  # cut at max_tokens
        "Here are the three most likely labels:\n1. House Sparrow\n2. Tree Pipit\n3. Robin\nI hope this helps!",
        "The most likely labels are House Sparrow, Tree Pipit and Robin.",
        "Here are some labels:\n\nHouse Sparrow\nTree Pipit\nRobin\n\nNote: these are guesses.",
        "1. **House Sparrow** - a small bird, brown\n2. **Tree Pipit** (20%)\n3. Robin: a red breast",
        "- House Sparrow (Passer domesticus)\n  - brown\n  - small\n- Tree Pipit\n  - streaked\n- Robin",
        "<think>1. Is it a wren?</think>House Sparrow\nTree Pipit\nRobin",
        "① House Sparrow\n② Tree Pipit\n③ Robin",
        "1️⃣ House Sparrow\n2️⃣ Tree Pipit\n3️⃣ Robin",
        "#1 House Sparrow\n#2 Tree Pipit\n#3 Robin",
        "1st: House Sparrow\n2nd: Tree Pipit\n3rd: Robin",
        "I. House Sparrow\nII. Tree Pipit\nIII. Robin",
        "Rank 1: House Sparrow\nRank 2: Tree Pipit\nRank 3: Robin",
        "Most likely: House Sparrow\nSecond: Tree Pipit\nThird: Robin",
        "▪ House Sparrow\n▪ Tree Pipit\n▪ Robin",
        "✅ House Sparrow\n✅ Tree Pipit\n✅ Robin",
        "- [ ] House Sparrow\n- [ ] Tree Pipit\n- [ ] Robin",
        "Top 3:\nHouse Sparrow\nTree Pipit\nRobin",
        "60% House Sparrow\n30% Tree Pipit\n10% Robin",
        "House Sparrow > Tree Pipit > Robin",
        "House Sparrow · Tree Pipit · Robin",
        "House Sparrow/Tree Pipit/Robin",
        "either House Sparrow, Tree Pipit, or Robin",
        "[House Sparrow, Tree Pipit, Robin]",
        '("House Sparrow", "Tree Pipit", "Robin")',
        '{"label_1": "House Sparrow", "label_2": "Tree Pipit", "label_3": "Robin"}',
        '{"House Sparrow": "60%", "Tree Pipit": "30%", "Robin": "10%"}',
        '{"House Sparrow": {"confidence": 0.6}, "Tree Pipit": {"confidence": 0.3}, "Robin": {"confidence": 0.1}}',
        '[["House Sparrow", 0.6], ["Tree Pipit", 0.3], ["Robin", 0.1]]',
        '{"label": "House Sparrow"}\n{"label": "Tree Pipit"}\n{"label": "Robin"}',
        '{"label": "House Sparrow", "alternatives": ["Tree Pipit", "Robin"]}',
        "| Rank | Label |\n|---|---|\n| 1 | House Sparrow |\n| 2 | Tree Pipit |\n| 3 | Robin |",
        "<label>House Sparrow</label>\n<label>Tree Pipit</label>\n<label>Robin</label>",
        "1. **House Sparrow**: brown\n2. **Tree Pipit**: streaked\n3. **Robin**: red",
        "1. House Sparrow\n2. house sparrow.\n3. Tree Pipit\n4. Robin\n5. Wren",  # one twice, and more than asked for
    ],
)
def test_three_names_in_any_dress(raw: str) -> None:
    assert [clean_answer(item) for item in listed_names(raw, 3)] == THREE


@pytest.mark.parametrize(
    ("raw", "names"),
    [
        ("House Sparrow", ["House Sparrow"]),
        ("1. House Sparrow", ["House Sparrow"]),
        ("This is a House Sparrow.", ["House Sparrow"]),
        ("House Sparrow or Tree Pipit", ["House Sparrow", "Tree Pipit"]),
        ("Wren, Robin, Black and White Warbler", ["Wren", "Robin", "Black and White Warbler"]),
        ("1) BMW 3 Series Sedan 2012, 2) Audi A4 2011", ["BMW 3 Series Sedan 2012", "Audi A4 2011"]),
        ("St. Bernard, Great Dane", ["St. Bernard", "Great Dane"]),
        ("Boeing 737-800\nAirbus A320", ["Boeing 737-800", "Airbus A320"]),
        ('["Anna\'s Hummingbird"]', ["Anna's Hummingbird"]),
        ("翠鸟、麻雀", ["翠鸟", "麻雀"]),
    ],
)
def test_fewer_names_than_asked_for(raw: str, names: list[str]) -> None:
    assert [clean_answer(item) for item in listed_names(raw, 3)] == names


@pytest.mark.parametrize(
    ("raw", "names"),
    [
        ("Okapi\nSureli\nNote Bird", ["Okapi", "Sureli", "Note Bird"]),  # begin like chatter
        ("Airbus A330 - 200\nAirbus A330 - 300", ["Airbus A330 - 200", "Airbus A330 - 300"]),
        ("1. Milk (2%)\n2. Milk 3.5%", ["Milk (2%)", "Milk 3.5%"]),  # portions, not how sure the model is
        ("1. Wren: 60%\n2. Robin: 30%\n3. Dunnock: 10%", ["Wren", "Robin", "Dunnock"]),
        ("Sure! Wren, Robin, and Dunnock.", ["Wren", "Robin", "Dunnock"]),
        ("Cola, 0.5 l; Lemonade, 1 l", ["Cola, 0.5 l", "Lemonade, 1 l"]),
        ("Phone (Blue), Phone (Red)", ["Phone (Blue)", "Phone (Red)"]),
    ],
)
def test_items_stay_as_they_were_said(raw: str, names: list[str]) -> None:
    assert [clean_answer(item) for item in listed_names(raw, 3)] == names


@pytest.mark.parametrize(
    ("raw", "names"),
    [
        ("1. Wren\n2. Robin\n3. Eurasian Tr", ["Wren", "Robin"]),
        ("Wren, Robin, Dunn", ["Wren", "Robin"]),
        ('["Wren", "Robin", "Dun', ["Wren", "Robin"]),
        ("1. Wren\n2. Robin\n", ["Wren", "Robin"]),  # the line had ended
    ],
)
def test_a_list_that_was_cut_off_loses_the_item_it_ended_in(raw: str, names: list[str]) -> None:
    assert listed_names(raw, 3, cut=True) == names


@pytest.mark.parametrize("raw", ["I'm sorry, I can't identify the bird, the image is blurry.", "", "1.\n2.\n3.", "[]"])
def test_no_name_stays_no_name(raw: str) -> None:
    (item,) = listed_names(raw, 3)
    assert isinstance(clean_answer(item), Failure)


@pytest.mark.parametrize("noise", ["[" * 5000, '{"a": ' * 5000, "[" + "1" * 5000 + "]"])
def test_a_model_that_repeats_itself_without_end_does_not_stop_the_others(noise: str) -> None:
    assert len(listed_names(noise, 3)) == 1
    assert listed_names(f'{noise}\n["Wren", "Robin"]', 3)[-1] == "Robin"


def test_a_placeholder_beside_a_name_is_no_name() -> None:
    found = [clean_answer(item) for item in listed_names("1. House Sparrow\n2. Unknown\n3. N/A", 3)]
    assert found[0] == "House Sparrow"
    assert [failure.reason for failure in found[1:] if isinstance(failure, Failure)] == [Reason.REFUSED] * 2


def test_answers_for_one_label_are_not_taken_apart() -> None:
    assert answer_items(["Wren, Robin", None], 1) == [["Wren, Robin"], []]
    assert answer_items(["Wren, Robin", None], 2) == [["Wren", "Robin"], []]
