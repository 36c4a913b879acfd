"""The label space over all answers, and the alias table that a person can edit."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from fgvr.mllm.alias_pairs import NameUse
from fgvr.mllm.aliases import Alias, AliasError, read_aliases, write_aliases
from fgvr.mllm.label_space import LabelSpace, build_label_space
from fgvr.schemas import Failure, Reason

ANSWERS = {
    "House Sparrow": 3,
    "house sparrow.": 2,
    "A HOUSE-SPARROW": 1,
    "Tree Pipit": 1,
    "tree pipit": 1,
    "I don't know": 4,
    "": 1,
}


def test_the_most_frequent_spelling_stands_for_all() -> None:
    named = build_label_space(ANSWERS)
    assert named.space == LabelSpace(("House Sparrow", "Tree Pipit"), (6, 2))
    assert named.meanings["house sparrow."] == "House Sparrow"
    assert named.meanings["tree pipit"] == "Tree Pipit"  # a tie: the first in alphabetical order
    refused, empty = named.meanings["I don't know"], named.meanings[""]
    assert isinstance(refused, Failure)
    assert refused.reason is Reason.REFUSED
    assert isinstance(empty, Failure)
    assert empty.reason is Reason.EMPTY_ANSWER


def test_the_order_of_the_answers_does_not_matter() -> None:
    backwards = build_label_space(dict(reversed(ANSWERS.items())))
    assert backwards.space == build_label_space(ANSWERS).space
    assert write_aliases(backwards.aliases) == write_aliases(build_label_space(ANSWERS).aliases)


def test_the_label_space_survives_its_file() -> None:
    space = LabelSpace(("Ñandú", "翠鸟"), (2, 1))
    assert LabelSpace.from_json(space.to_json()) == space


def test_no_answer_with_a_name_is_an_empty_label_space() -> None:
    assert build_label_space({"I am not sure": 5}).space == LabelSpace((), ())


def test_the_written_table_read_back_changes_nothing(tmp_path: Path) -> None:
    named = build_label_space(ANSWERS)
    file = tmp_path / "aliases.csv"
    file.write_bytes(write_aliases(named.aliases))
    assert file.read_text().splitlines() == [
        "answer,label,count",
        "House Sparrow,House Sparrow,3",
        "house sparrow,House Sparrow,2",
        "HOUSE-SPARROW,House Sparrow,1",
        "Tree Pipit,Tree Pipit,1",
        "tree pipit,Tree Pipit,1",
    ]
    assert build_label_space(ANSWERS, read_aliases(str(file))) == named


def test_an_edited_table_overrules_the_clean_up(tmp_path: Path) -> None:
    file = tmp_path / "aliases.csv"
    file.write_text("\ufeffanswer,label\ntree pipit,HOUSE SPARROW\nI don't know,Mystery Bird\n", encoding="utf-8")
    named = build_label_space(ANSWERS, read_aliases(str(file)))
    assert named.space == LabelSpace(("HOUSE SPARROW", "Mystery Bird"), (8, 4))  # spelt as the person did
    file.write_text("answer,label\nTree Pipit,\n")
    dropped = build_label_space(ANSWERS, read_aliases(str(file))).meanings["Tree Pipit"]
    assert isinstance(dropped, Failure)
    assert dropped.reason is Reason.REFUSED


def test_a_whole_answer_and_its_cleaned_name_may_mean_different_things(tmp_path: Path) -> None:
    sentence = "The bird in this image is a Robin."
    file = tmp_path / "aliases.csv"
    file.write_text(f"answer,label\n{sentence},American Robin\nRobin,European Robin\n")
    named = build_label_space({sentence: 1, "Robin": 1}, read_aliases(str(file)))
    assert named.meanings == {sentence: "American Robin", "Robin": "European Robin"}
    file.write_bytes(write_aliases(named.aliases))
    again = build_label_space({sentence: 1, "Robin": 1}, read_aliases(str(file)))
    assert again.meanings == named.meanings


def test_chains_are_followed(tmp_path: Path) -> None:
    file = tmp_path / "aliases.csv"
    file.write_text("answer,label\na,b\nb,c\nc,C\n")
    assert read_aliases(str(file)).labels == {"a": "C", "b": "C", "c": "C"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("answer,label\na,b\nb,a\n", "circle"),
        ("answer,label\na,b\nA.,c\n", "line 3: 'A.' stands for 'b' and for 'c'"),
        ("raw,name\na,b\n", "needs columns answer and label"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "aliases.csv"
    file.write_text(text)
    with pytest.raises(AliasError, match=message):
        read_aliases(str(file))


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(AliasError, match=r"label\.aliases: there is no file .*missing\.csv"):
        read_aliases(str(tmp_path / "missing.csv"))


def english_is_house(names: Sequence[NameUse]) -> dict[str, str]:
    return {use.name: "House Sparrow" for use in names if use.name == "english sparrow"}


SPARROWS = {"House Sparrow (Passer domesticus)": 3, "The bird is an english sparrow.": 1, "Tree Pipit": 1}


def test_a_later_merge_unites_names_of_different_spelling() -> None:
    merged = build_label_space(SPARROWS, merge=english_is_house)
    assert merged.space == LabelSpace(("House Sparrow", "Tree Pipit"), (4, 1))
    assert Alias("english sparrow", "House Sparrow", 1) in merged.aliases  # for a person to see and to change


def test_a_merge_is_told_counts_and_scientific_names() -> None:
    seen: list[NameUse] = []
    build_label_space(SPARROWS, merge=lambda names: seen.extend(names) or {})  # type: ignore[func-returns-value]
    assert sorted(seen, key=lambda use: use.name) == [
        NameUse("House Sparrow", 3, "Passer domesticus"),
        NameUse("Tree Pipit", 1),
        NameUse("english sparrow", 1),
    ]


def test_a_merge_that_a_person_takes_back_stays_back(tmp_path: Path) -> None:
    file = tmp_path / "aliases.csv"
    file.write_bytes(write_aliases(build_label_space(SPARROWS, merge=english_is_house).aliases))
    assert build_label_space(SPARROWS, read_aliases(str(file)), english_is_house).space.counts == (4, 1)
    file.write_text(file.read_text().replace("english sparrow,House Sparrow", "english sparrow,english sparrow"))
    edited = build_label_space(SPARROWS, read_aliases(str(file)), english_is_house)
    assert edited.space == LabelSpace(("House Sparrow", "Tree Pipit", "english sparrow"), (3, 1, 1))


def test_one_name_and_all_distinct_names() -> None:
    assert build_label_space({"finch": 7}, merge=english_is_house).space == LabelSpace(("finch",), (7,))
    distinct = {f"Finch {number}": 1 for number in range(500)}
    assert build_label_space(distinct, merge=english_is_house).space == LabelSpace(tuple(sorted(distinct)), (1,) * 500)


def test_an_answer_of_200_words_is_no_name_and_the_others_are_not_touched() -> None:
    named = build_label_space({"azure " * 199 + "finch": 1, "Tree Pipit": 1})
    assert named.space.labels == ("Tree Pipit",)
    long = next(iter(named.meanings.values()))
    assert isinstance(long, Failure)
    assert long.reason is Reason.EMPTY_ANSWER


def test_a_person_may_choose_a_label_of_200_words(tmp_path: Path) -> None:
    label = "azure " * 199 + "finch"
    file = tmp_path / "aliases.csv"
    file.write_text(f"answer,label\nTree Pipit,{label}\n")
    assert build_label_space({"Tree Pipit": 2}, read_aliases(str(file))).space == LabelSpace((label,), (2,))


def test_names_in_other_scripts_are_labels() -> None:
    named = build_label_space({"翠鸟": 2, "翠鸟。": 1, "Зимородок": 1, "зимородок": 1, "किंगफ़िशर": 1})
    assert named.space == LabelSpace(("Зимородок", "किंगफ़िशर", "翠鸟"), (2, 1, 3))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('answer,label\nfinch,Finch\n"19 inch,Rack\nowl,Owl\n', "line 3: a quote opens there that nothing closes"),
        ("answer,label\nfinch, red,Finch\n", "line 2: 3 cells for 2 columns"),
        ("answer,label,label\nfinch,Finch,Owl\n", "line 1: there are two columns label"),
    ],
)
def test_a_table_that_could_only_be_guessed_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "aliases.csv").write_text(text)
    with pytest.raises(AliasError, match=message):
        read_aliases(str(tmp_path / "aliases.csv"))


def test_a_table_of_a_spreadsheet(tmp_path: Path) -> None:
    (tmp_path / "aliases.csv").write_bytes("answer, label\r\nfinch,Fink \r\n".encode("utf-16"))
    assert read_aliases(str(tmp_path / "aliases.csv")).label("Finch") == "Fink"
