"""WordNet's index of nouns, in a tiny copy of its format."""

from pathlib import Path

import pytest

from fgvr.baselines import BaselineError
from fgvr.baselines.vocabularies import read_nouns

INDEX = """\
  1 This software and database is being provided to you, the LICENSEE, by
  2 Princeton University under the following license.
'hood n 1 2 @ ; 1 0 08641944
barn_owl n 1 2 @ #m 1 0 01624305
finch n 1 4 @ ~ #m %m 1 0 01529672
jack-o'-lantern n 2 2 @ ~ 2 0 03590588 13053608
"""


def test_lemmas_with_blanks_in_the_files_order(tmp_path: Path) -> None:
    (tmp_path / "index.noun").write_text(INDEX)
    assert read_nouns(str(tmp_path / "index.noun")) == ["'hood", "barn owl", "finch", "jack-o'-lantern"]


def test_a_missing_file_names_the_package(tmp_path: Path) -> None:
    with pytest.raises(BaselineError, match=r"baselines\.wordnet\.path: .*wordnet-base of Debian"):
        read_nouns(str(tmp_path / "index.noun"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (INDEX + "run v 41 5 ! ~ 41 37 01926311\n", r"line 7 of .*'run v 41 5"),  # index.verb
        ("00001740 03 n 01 entity 0 003 ~ 00001930 n 0000 | that which is\n", "line 1"),  # data.noun
        ("finch\nowl\n", "line 1"),  # a plain list
        ("  1 licence only\n", "there is no noun"),
        ("", "there is no noun"),
    ],
)
def test_another_format_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "index.noun").write_text(content)
    with pytest.raises(BaselineError, match=message):
        read_nouns(str(tmp_path / "index.noun"))
