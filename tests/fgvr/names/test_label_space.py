"""The label space over all answers, and the alias table that a person can edit."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from fgvr.names.aliases import Alias, AliasError, read_aliases, write_aliases
from fgvr.names.label_space import LabelSpace, build_label_space
from fgvr.names.merging import NameEncoder, NameUse, merge_aliases
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
    assert dropped.reason is Reason.STRUCK_OUT


def test_a_whole_answer_and_its_cleaned_name_may_mean_different_things(tmp_path: Path) -> None:
    sentence = "The bird in this image is a Robin."
    file = tmp_path / "aliases.csv"
    file.write_text(f"answer,label\n{sentence},American Robin\nRobin,European Robin\n")
    named = build_label_space({sentence: 1, "Robin": 1}, read_aliases(str(file)))
    assert named.meanings == {sentence: "American Robin", "Robin": "European Robin"}
    file.write_bytes(write_aliases(named.aliases))
    again = build_label_space({sentence: 1, "Robin": 1}, read_aliases(str(file)))
    assert again.meanings == named.meanings


def test_what_spreadsheets_make_of_a_table_is_read(tmp_path: Path) -> None:
    file = tmp_path / "aliases.csv"
    rows = ' answer ;label\t;notes\n"Sofa, red";Sofa\u00a0;\n  Canape\u0301 ;Cafe\u0301;x\n;;\n'
    file.write_bytes(rows.replace("\n", "\r\n").encode("utf-8-sig"))
    table = read_aliases(str(file))
    assert table.label("sofa red") == "Sofa"
    assert table.label("canapé") == "Café"  # in one Unicode form
    file.write_text("label\tanswer\nSofa\tSofa, red\n")
    assert read_aliases(str(file)).label("Sofa red") == "Sofa"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'answer,label\nmug,Mug\npan,"Pan\ncup,Cup\n', "line 3: .*quote that opens there is never closed"),
        (b'answer,label\n"19 inch rack,Rack\n"mug",Mug\n', "line 2: .*quote"),
        (b'answer,label\nmug,"Mug\ncup,Cup\n"\n', "line 2: the label has a line break; is a quote not closed"),
        (b"answer,label,label\nmug,Mug,Cup\n", "has the column label twice"),
        (b"Answer,Labels\nmug,Mug\n", "needs columns answer and label.*write answer and label for Answer and Labels"),
        (b"answer|label\nmug|Mug\n", "needs columns answer and label, has 'answer|label'"),
        ("answer,label\nmug,Mug\n".encode("utf-16-le"), 'it is UTF-16 or no text.*save it as "CSV UTF-8"'),
        ("answer,label\nmug,Mug\ncafé,Café\n".encode("latin-1"), 'line 3: not UTF-8 text.*save it as "CSV UTF-8"'),
        (b"answer,label\nSofa, red,Sofa\n", "line 2: 3 fields, but 2 columns; put quotes around text with commas"),
        (b"answer,label\n\nmug\n", "line 3: there is no label"),
        (b"answer,label\n,Mug\n", "line 2: 'Mug' is the label of no answer"),
        (b"", "needs columns answer and label, has nothing"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_sentence(tmp_path: Path, data: bytes, message: str) -> None:
    file = tmp_path / "aliases.csv"
    file.write_bytes(data)
    with pytest.raises(AliasError, match=rf"^label\.aliases: .*aliases\.csv.*{message}"):
        read_aliases(str(file))


def test_chains_are_followed(tmp_path: Path) -> None:
    file = tmp_path / "aliases.csv"
    file.write_text("answer,label\na,b\nb,c\nc,C\n")
    assert read_aliases(str(file)).labels == {"a": "C", "b": "C", "c": "C"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("answer,label\na,b\nb,a\n", "circle"),
        ("answer,label\na,b\nA,b\n a ,c\n", "line 4: 'a' stands for 'c', on line 2 for 'b'"),
        ("raw,name\na,b\n", "needs columns answer and label"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "aliases.csv"
    file.write_text(text)
    with pytest.raises(AliasError, match=message):
        read_aliases(str(file))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("C Primer", "C# Primer"),
        ("1.5 l flask", "15 l flask"),
        ("2% Milk", "2 Milk"),
        ("Polish", "polish"),
        ("Résumé", "resume"),
        ("re-sign", "resign"),
        ("Wham!", "Wham"),
        ("Sweet Peas", "sweetpea"),  # of one spelling for the merge
    ],
)
def test_whatever_was_united_can_be_parted(tmp_path: Path, one: str, other: str) -> None:
    file = tmp_path / "aliases.csv"
    file.write_text(f"answer,label\n{one},{one}\n{other},{other}\n", encoding="utf-8")
    answers = {one: 3, other: 2, "Tree Pipit": 1}
    table = read_aliases(str(file))
    named = build_label_space(answers, table, lambda names: merge_aliases(names, _no_encoder, 1.0))
    assert named.meanings == {one: one, other: other, "Tree Pipit": "Tree Pipit"}
    assert dict(zip(named.space.labels, named.space.counts, strict=True)) == answers
    file.write_bytes(write_aliases(named.aliases))
    assert build_label_space(answers, read_aliases(str(file))).meanings == named.meanings


def test_spellings_of_one_key_may_have_labels_that_differ_in_more(tmp_path: Path) -> None:
    file = tmp_path / "aliases.csv"
    file.write_text("answer,label\npolish,Nail varnish\nPolish,From Poland\nPOLISH,Nail varnish\nvarnish,polish\n")
    named = build_label_space({"polish": 1, "Polish.": 2, "POLISH": 4, "varnish": 8}, read_aliases(str(file)))
    assert named.space == LabelSpace(("From Poland", "Nail varnish"), (2, 13))


def test_a_spelling_that_the_table_leaves_open_is_read_as_without_it(tmp_path: Path) -> None:
    file = tmp_path / "aliases.csv"
    file.write_text("answer,label\npolish,Nail varnish\nPolish,From Poland\n")
    named = build_label_space({"POLISH": 3, "Polish": 1}, read_aliases(str(file)))
    assert named.meanings == {"POLISH": "POLISH", "Polish": "From Poland"}


def _no_encoder() -> NameEncoder:
    raise AssertionError("no embedding is needed")


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


def test_a_table_of_a_spreadsheet(tmp_path: Path) -> None:
    (tmp_path / "aliases.csv").write_bytes("answer, label\r\nfinch,Fink \r\n".encode("utf-16"))
    assert read_aliases(str(tmp_path / "aliases.csv")).label("Finch") == "Fink"
    (tmp_path / "aliases.csv").write_text('answer, label\nfinch, "Fink, grau"\n')  # a blank before the quote
    assert read_aliases(str(tmp_path / "aliases.csv")).label("Finch") == "Fink, grau"
