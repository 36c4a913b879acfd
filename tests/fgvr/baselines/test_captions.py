"""Caption files."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fgvr.baselines import BaselineError
from fgvr.baselines.vocabularies import read_captions

CAPTIONS = ["A finch, red.", "00123", "A finch, red.", "  An owl\nat night ", "", None]
EXPECTED = ["A finch, red.", "00123", "An owl\nat night"]


def test_a_column_of_a_csv_is_text(tmp_path: Path) -> None:
    rows = 'id,caption\n1,"A finch, red."\n2,00123\n3,"A finch, red."\n4,"  An owl\nat night "\n5,\n'
    (tmp_path / "c.csv").write_text(rows)
    assert read_captions(str(tmp_path / "c.csv"), "caption") == EXPECTED


def test_a_column_of_a_parquet_file(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": CAPTIONS, "url": ["u"] * 6}), tmp_path / "c.parquet")
    assert read_captions(str(tmp_path / "c.parquet"), "text") == EXPECTED


def test_a_caption_a_line(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("A finch\n\n An owl \nA finch\n")
    assert read_captions(str(tmp_path / "c.txt"), "ignored") == ["A finch", "An owl"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.txt", b"", "there is no caption in"),
        ("c.txt", b"\n  \n", "there is no caption in"),
        ("c.csv", b"", r"cannot be read"),
        ("c.csv", b"caption\n", "there is no caption in"),
        ("c.csv", b"text,url\na,b\n", r"baselines\.cased\.column = caption: .*there are: text, url"),
        ("c.parquet", b"PAR0", "cannot be read"),
        ("c.json", b"[]", r"none of \.csv, \.parquet and \.txt"),
    ],
)
def test_what_holds_no_captions_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BaselineError, match=message):
        read_captions(str(tmp_path / name), "caption")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BaselineError, match=r"baselines\.cased\.captions: there is no file"):
        read_captions(str(tmp_path / "c.csv"), "caption")


def test_a_quote_that_nothing_closes_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text('caption\nNA\n"a finch\nan owl\n')
    with pytest.raises(BaselineError, match=r"line 3: a quote opens a cell there that nothing closes"):
        read_captions(str(tmp_path / "c.csv"), "caption")


def test_words_of_other_programs_are_captions(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("\ufeff caption,id\nNA,1\nnull,2\n,3\n")
    assert read_captions(str(tmp_path / "c.csv"), "caption") == ["NA", "null"]
