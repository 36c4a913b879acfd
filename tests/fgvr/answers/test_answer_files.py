"""Files of answers in every format, and what becomes of rows that do not fit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fgvr import schemas, tables
from fgvr.answers import rows as answer_rows
from fgvr.answers.given import AnswerFileError
from fgvr.answers.rows import FileAnswers, file_decides, open_answers
from fgvr.config.label_sources import AnswerFile
from fgvr.sources import image_join
from fgvr.sources.sorted_runs import SortedRuns
from fgvr.tables import Table

FIELD = "label.sources.0"


def samples_of(folder: Path, names: Sequence[str], rows_per_part: int = 2) -> Table:
    """A samples table of these photos below /photos, in several parts."""
    uris = sorted(f"/photos/{name}" for name in names)
    rows = pa.table(
        {
            "image_id": np.arange(len(uris)),
            "uri": uris,
            "split": ["train"] * len(uris),
            "class_id": pa.nulls(len(uris), pa.int32()),
            "class_name": pa.nulls(len(uris), pa.string()),
            "metadata": pa.nulls(len(uris), pa.string()),
        },
        schema=schemas.SAMPLES,
    )
    place, starts = str(folder / "samples"), range(0, len(uris), rows_per_part)
    for number, start in enumerate(starts):
        tables.write_part(place, number, rows.slice(start, rows_per_part))
    return Table(place, "samples", "f", len(uris), 0, len(starts), rows_per_part, 0.0)


@pytest.fixture
def samples(tmp_path: Path) -> Table:
    """Five photos: a, b, c, d, e with the ids 0 to 4."""
    return samples_of(tmp_path, [f"{letter}.jpg" for letter in "abcde"])


def read(
    tmp_path: Path,
    samples: Table,
    text: str | bytes,
    name: str = "answers.csv",
    ids: Sequence[int] = range(5),
    **more: Any,
) -> tuple[list[dict[str, Any]], FileAnswers]:
    """The answer rows of a file with this content, and what it was like."""
    file = tmp_path / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    answers = FileAnswers(AnswerFile(path=str(file), **more), FIELD, samples, "/photos")
    parts = list(answers.parts(np.array(ids, np.int64), 2))
    assert all(part.schema.equals(schemas.FILE_ANSWERS) for part in parts)
    assert [part.num_rows for part in parts[:-1]] == [2] * (len(parts) - 1)
    return pa.concat_tables(parts).to_pylist(), answers


def said(rows: list[dict[str, Any]]) -> list[Any]:
    """Of each row its texts, or the reason why it has none."""
    return [row["texts"] if row["error"] is None else row["error"]["reason"] for row in rows]


def test_one_answer_per_photo_by_uri_relative_absolute_or_oddly_spelled(tmp_path: Path, samples: Table) -> None:
    text = "uri,answer\nc.jpg,Gull\n/photos/a.jpg,Tern\n./x/../b.jpg,  Auk \nfile:///photos/e.jpg,Dodo\n"
    rows, answers = read(tmp_path, samples, text)
    assert [row["image_id"] for row in rows] == [0, 1, 2, 3, 4]
    assert said(rows) == [["Tern"], ["  Auk "], ["Gull"], "not_in_file", ["Dodo"]]
    assert rows[3]["error"]["detail"] == "the file of answers has no row about this photo"
    assert all((row["prompt_tokens"], row["output_tokens"]) == (0, 0) for row in rows)
    assert all(row["scores"] is None for row in rows)
    assert answers.remarks() == ()


def test_ranked_answers_with_scores_stand_with_the_best_first(tmp_path: Path, samples: Table) -> None:
    text = (
        "uri,rank,answer,score\n"
        "b.jpg,2,Tern,0.25\na.jpg,1,Gull,0.5\nb.jpg,1,Auk,0.75\na.jpg,3,Dodo,0\na.jpg,2,Kea,0.125\nd.jpg,1,Rail,0\n"
        "e.jpg,1,Coot,\ne.jpg,2,Crake,0.5\n"
    )
    rows, _ = read(tmp_path, samples, text)
    assert said(rows) == [["Gull", "Kea"], ["Auk", "Tern"], "not_in_file", ["Rail"], ["Coot", "Crake"]]
    # A score of 0 beside others says that the name is not meant; where a score is missing, none counts.
    assert [row["scores"] for row in rows] == [[0.5, 0.125], [0.75, 0.25], None, None, None]


def test_scores_alone_are_an_order(tmp_path: Path, samples: Table) -> None:
    rows, _ = read(tmp_path, samples, "uri,answer,score\na.jpg,Gull,0.2\na.jpg,Tern,0.8\na.jpg,Auk,0.2\n", ids=[0])
    assert said(rows) == [["Tern", "Gull", "Auk"]]


def test_what_is_said_twice_counts_once_and_what_contradicts_itself_fails(tmp_path: Path, samples: Table) -> None:
    text = (
        "uri,rank,answer,score\n"
        "a.jpg,1,Gull,0.5\na.jpg,1,Gull,0.5\na.jpg,2,Tern,0.5\n"
        "b.jpg,1,Gull,0.5\nb.jpg,1,Tern,0.5\n"
        "c.jpg,,Gull,\nc.jpg,,Tern,\n"
        "d.jpg,1,Gull,0.5\nd.jpg,1,Gull,0.25\n"
        "e.jpg,,Gull,0.5\ne.jpg,,Tern,0.5\ne.jpg,,Gull,0.5\n"
    )
    rows, answers = read(tmp_path, samples, text)
    failed = "contradiction"
    assert said(rows) == [["Gull", "Tern"], failed, failed, failed, ["Gull", "Tern"]]
    assert [row["error"] and row["error"]["detail"] for row in rows[1:4]] == [
        "rows 4 and 5 of the file give different answers 'Gull' and 'Tern' at rank 1",
        "rows 6 and 7 of the file give different answers 'Gull' and 'Tern'",
        "rows 8 and 9 of the file give different scores of 'Gull' at rank 1",
    ]
    assert answers.repeated == 2
    assert answers.remarks() == (f"{FIELD} (file): 2 rows said again what another one says, left out",)


def test_rows_about_other_photos_are_counted_and_shown(tmp_path: Path, samples: Table) -> None:
    text = "uri,answer\na.jpg,Gull\nz.jpg,Tern\n,Auk\nA.jpg,Auk\nb.jpg,\nc.jpg,  \n"
    rows, answers = read(tmp_path, samples, text, ids=[0, 1, 2])
    assert said(rows) == [["Gull"], "empty_answer", "empty_answer"]
    assert answers.counts() == {"file_rows": 6, "unknown_rows": 3, "repeated_rows": 0, "photos_not_asked_about": 0}
    assert answers.remarks() == (
        f"{FIELD} (file): 2 rows about photos that the samples do not have, e.g. 'A.jpg', read as /photos/A.jpg; the "
        "samples have e.g. '/photos/a.jpg'",
        f"{FIELD} (file): 1 row without a photo, left out",
    )


def test_a_file_that_matches_nothing_shows_both_spellings(tmp_path: Path, samples: Table) -> None:
    message = (
        r"label\.sources\.0\.path = .*: none of its 2 rows is about a photo of the samples: 'photos/a\.jpg', read as "
        r"/photos/photos/a\.jpg; the samples have e\.g\. '/photos/a\.jpg'"
    )
    with pytest.raises(AnswerFileError, match=message):
        read(tmp_path, samples, "uri,answer\nphotos/a.jpg,Gull\nphotos/b.jpg,Tern\n")
    with pytest.raises(AnswerFileError, match=r"image_id 7, where the samples have 0 to 4"):
        read(tmp_path, samples, "image_id,answer\n7,Gull\n")
    with pytest.raises(AnswerFileError, match="none names a photo"):
        read(tmp_path, samples, "uri,answer\n,Gull\n")


def test_ids_count_where_there_are_no_uris(tmp_path: Path, samples: Table) -> None:
    rows, answers = read(tmp_path, samples, "image_id,answer\n3,Gull\n1.0,Tern\n-1,Auk\n5,Auk\n", ids=[1, 3])
    assert said(rows) == [["Tern"], ["Gull"]]
    assert answers.join is not None
    assert answers.join.unknown == 2
    both = "image_id,uri,answer\n0,b.jpg,Gull\n"
    assert said(read(tmp_path, samples, both, ids=[0, 1])[0]) == ["not_in_file", ["Gull"]]
    assert said(read(tmp_path, samples, both, ids=[0, 1], id_column="image_id")[0]) == [["Gull"], "not_in_file"]


def test_photos_that_are_not_asked_about_are_counted_alone(tmp_path: Path, samples: Table) -> None:
    rows, answers = read(tmp_path, samples, "uri,answer\na.jpg,Gull\nd.jpg,Tern\ne.jpg,Auk\n", ids=[3])
    assert said(rows) == [["Tern"]]
    assert answers.elsewhere == 2


def test_formats_agree(tmp_path: Path, samples: Table) -> None:
    columns = {"uri": ["b.jpg", "b.jpg", "a.jpg"], "rank": [2, 1, 1], "answer": ["Tern", 'Gull, "great"', "Ünï"]}
    scores = [0.25, 0.75, 1.0]
    expected, _ = read(tmp_path, samples, _csv(columns | {"score": scores}))
    pq.write_table(pa.table(columns | {"score": pa.array(scores, pa.float32())}), tmp_path / "x.parquet")
    files = {
        "a.parquet": (tmp_path / "x.parquet").read_bytes(),
        "a.tsv": _csv(columns | {"score": scores})
        .replace('"Gull, ""great"""', 'Gull, "great"')
        .replace(",", "\t")
        .replace("Gull\t", "Gull,"),
        "a.jsonl": "\n".join(
            json.dumps(dict(zip(("uri", "rank", "answer", "score"), row, strict=True)))
            for row in zip(*columns.values(), scores, strict=True)
        ),
    }
    for name, content in files.items():
        assert read(tmp_path, samples, content, name)[0] == expected, name


def _csv(columns: dict[str, Any]) -> str:
    cells = [[str(value) for value in row] for row in zip(*columns.values(), strict=True)]
    quoted = [['"' + c.replace('"', '""') + '"' if '"' in c else c for c in row] for row in cells]
    return "\n".join(",".join(row) for row in [list(columns), *quoted]) + "\n"


def test_lists_in_json_lines(tmp_path: Path, samples: Table) -> None:
    lines = [
        {"uri": "a.jpg", "answer": ["Gull", "Tern"], "score": [3, 1]},
        {"uri": "b.jpg", "answer": ["Gull", "Tern"]},
        {"uri": "c.jpg", "answer": None},
    ]
    rows, _ = read(tmp_path, samples, "\n\n".join(map(json.dumps, lines)), "a.jsonl", ids=[0, 1, 2])
    assert said(rows) == [["Gull", "Tern"], ["Gull", "Tern"], "empty_answer"]
    assert [row["scores"] for row in rows] == [[3, 1], None, None]


def batch_line(custom_id: str, *texts: str, status: int = 200, finish: str = "stop") -> dict[str, Any]:
    """A line as OpenAI's batch API writes it."""
    choices = [
        {"index": n, "message": {"role": "assistant", "content": t, "refusal": None}, "finish_reason": finish}
        for n, t in enumerate(texts)
    ]
    body = {"id": "chatcmpl-1", "model": "gpt-x", "choices": choices, "usage": {"prompt_tokens": 99}}
    return {
        "id": "batch_req_1",
        "custom_id": custom_id,
        "response": {"status_code": status, "request_id": "r", "body": body},
        "error": None,
    }


def test_a_batch_output_of_openai(tmp_path: Path, samples: Table) -> None:
    failed = batch_line("c.jpg", status=500)
    failed["response"]["body"] = {"error": {"message": "overloaded"}}
    refused = batch_line("d.jpg", "")
    refused["response"]["body"]["choices"][0]["message"] |= {"content": None, "refusal": "I cannot"}
    expired = {"id": "b", "custom_id": "e.jpg", "response": None, "error": {"code": "batch_expired", "message": "late"}}
    lines = [
        batch_line("b.jpg", "Gull", "Tern"),
        batch_line("a.jpg", "A Mal", finish="length"),
        failed,
        refused,
        expired,
    ]
    rows, answers = read(tmp_path, samples, "\n".join(map(json.dumps, lines)), "batch.jsonl")
    assert said(rows) == [["A Mal"], ["Gull", "Tern"], "engine_error", "refused", "engine_error"]
    assert [row["cut"] for row in rows] == [[True], [False, False], None, None, None]
    assert "overloaded" in rows[2]["error"]["detail"]
    assert "batch_expired" in rows[4]["error"]["detail"]
    assert answers.remarks() == (f"{FIELD} (file): 1 answers were ended by their model's token limit",)


def test_a_batch_output_of_anthropic(tmp_path: Path, samples: Table) -> None:
    content = [{"type": "text", "text": "A "}, {"type": "text", "text": "gull"}]
    message = {"role": "assistant", "content": content, "stop_reason": "end_turn"}
    lines = [
        {"custom_id": "0", "result": {"type": "succeeded", "message": message}},
        {"custom_id": "1", "result": {"type": "errored", "error": {"type": "invalid_request"}}},
        {"custom_id": "2", "result": {"type": "expired"}},
    ]
    text = "\n".join(map(json.dumps, lines))
    rows, _ = read(tmp_path, samples, text, "b.jsonl", ids=[0, 1, 2], id_column="custom_id")
    assert said(rows) == [["A gull"], "engine_error", "engine_error"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", r"the name must end in \.csv"),
        ("a.csv", "", r"a\.csv: it is empty"),
        ("a.csv", "uri,label\na.jpg,Gull\n", r"answer_column = answer: .* no such column; .* did you mean label\?"),
        ("a.csv", "photo,answer\na.jpg,Gull\n", r"uri_column = uri: .*, nor image_id .* did you mean photo\?"),
        ("a.csv", "uri,answer,answer\na.jpg,Gull,Tern\n", r"two columns answer"),
        ("a.csv", "uri,answer,score\na.jpg,Gull,much\n", r"row 1: score 'much' is no number"),
        ("a.csv", "uri,answer,score\na.jpg,Gull,1\nb.jpg,Gull,-0.5\n", r"row 2: score -0\.5 is negative"),
        ("a.csv", "uri,answer,score\na.jpg,Gull,inf\n", r"row 1: score inf"),
        ("a.csv", "image_id,answer\nx,Gull\n", r"row 1: image id 'x' is no number"),
        ("a.csv", "image_id,answer\n1.5,Gull\n", r"truncated"),
        ("a.csv", 'uri,answer\na.jpg,"Gull\n', r"line 2: a quote opens a cell"),
        ("a.csv", "uri,answer\na.jpg,Gull,Tern\n", r"Expected 2 columns, got 3"),
        ("a.parquet", "no parquet", r"a\.parquet: .*[Pp]arquet"),
        ("a.jsonl", "", r"it has no line"),
        ("a.jsonl", "{}", r"line 1: no uri \(label\.sources\.0\.uri_column\)"),
        ("a.jsonl", '{"uri": "a.jpg", "label": "Gull"}', r"no answer .* did you mean label\?"),
        ("a.jsonl", '{"uri": "a.jpg", "answer": "Gull"}\nnot json', r"line 2: no JSON"),
        ("a.jsonl", '["a.jpg", "Gull"]', r"line 1: a list"),
        ("a.jsonl", '{"uri": "a.jpg", "answer": "Gull", "answer": "Tern"}', r"line 1: 'answer' stands twice in an obj"),
        ("a.jsonl", '{"custom_id": "a.jpg", "response": {"x": {"y": 1, "y": 1}}}', r"line 1: 'y' stands twice"),
        ("a.jsonl", '{"uri": 3, "answer": "Gull"}', r"line 1: uri = 3: a photo's URI is text"),
        ("a.jsonl", '{"image_id": "x", "answer": "Gull"}', r"an image id is a whole number"),
        ("a.jsonl", '{"uri": "a.jpg", "answer": ["Gull"], "score": [1, 2]}', r"as many scores"),
        ("a.jsonl", '{"uri": "a.jpg", "answer": "Gull", "score": -1}', r"score -1 is negative"),
        ("a.jsonl", '{"uri": "a.jpg", "answer": {"name": "Gull"}}', r"an answer is text"),
        ("a.jsonl", '{"custom_id": "a.jpg", "response": {"odd": 1}}', r"line 1: no line of a batch output"),
    ],
)
def test_what_is_no_file_of_answers_is_refused(
    tmp_path: Path, samples: Table, name: str, text: str, message: str
) -> None:
    with pytest.raises(AnswerFileError, match=message):
        read(tmp_path, samples, text, name)


def test_a_file_that_is_not_there_and_a_column_that_is_named_are_found_before_the_start(tmp_path: Path) -> None:
    with pytest.raises(AnswerFileError, match="there is no such file"):
        open_answers(AnswerFile(path=str(tmp_path / "none.csv")), FIELD)
    (tmp_path / "a.csv").write_text("uri,answer\n")
    open_answers(AnswerFile(path=str(tmp_path / "a.csv")), FIELD)
    with pytest.raises(AnswerFileError, match=r"label\.sources\.0\.score_column = score: .* no such column"):
        open_answers(AnswerFile(path=str(tmp_path / "a.csv"), score_column="score"), FIELD)


def test_the_content_decides_and_not_the_place(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("uri,answer\na.jpg,Gull\n")
    (tmp_path / "b.csv").write_text("uri,answer\na.jpg,Gull\n")
    first, second = (AnswerFile(path=str(tmp_path / name)) for name in ("a.csv", "b.csv"))
    assert file_decides(first) == file_decides(second)
    (tmp_path / "b.csv").write_text("uri,answer\na.jpg,Tern\n")
    assert file_decides(first) != file_decides(second)
    assert file_decides(first) != file_decides(first.model_copy(update={"rank_column": None}))


def test_a_shuffled_file_larger_than_memory_gives_every_photo_its_own(tmp_path: Path, monkeypatch: Any) -> None:
    """Runs of 2 KB, so that ranks of one photo lie in many of them; compared with a dictionary."""
    monkeypatch.setattr(image_join, "SortedRuns", lambda *given: SortedRuns(*given, run_bytes=2_000))
    count, random = 300, np.random.default_rng(0)
    samples = samples_of(tmp_path, [f"{number:04d}.jpg" for number in range(count)], rows_per_part=37)
    lines = [(number, rank) for number in range(count) for rank in range(1, 2 + number % 5)]
    order = random.permutation(len(lines))
    text = "".join(f"{lines[at][0]:04d}.jpg,{lines[at][1]},name {lines[at]}\n" for at in order)
    (tmp_path / "a.csv").write_text(
        "uri,rank,answer\n" + text.replace("(", '"(').replace(")", ')"').replace('name "', '"name ')
    )
    answers = FileAnswers(AnswerFile(path=str(tmp_path / "a.csv")), FIELD, samples, "/photos")
    asked = np.arange(0, count, 3)
    rows = pa.concat_tables(list(answers.parts(asked, 64))).to_pylist()
    assert [row["image_id"] for row in rows] == asked.tolist()
    for row in rows:
        number = row["image_id"]
        assert row["texts"] == [f"name {(number, rank)}" for rank in range(1, 2 + number % 5)]


def test_too_many_rows_about_one_photo_are_refused(tmp_path: Path, samples: Table, monkeypatch: Any) -> None:
    monkeypatch.setattr(answer_rows, "MOST_ROWS", 3)
    text = "uri,rank,answer\n" + "".join(f"a.jpg,{rank},Gull\n" for rank in range(5))
    with pytest.raises(AnswerFileError, match="more than 3 rows are about one photo, image 0"):
        read(tmp_path, samples, text)
