import csv
import hashlib
from pathlib import Path

import fsspec
import pytest

from fgvr.demo.field_guide import main, write_field_guide
from fgvr.demo.questions import QUESTIONS
from fgvr.demo.samples import sample
from fgvr.demo.species import SPECIES


def digests(folder) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_split_file_lists_every_image_with_its_class(tmp_path):
    path = write_field_guide(tmp_path / "guide", per_class={"train": 2, "test": 1}, seed=4, difficulty=1)
    with Path(path).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["uri", "split", "class_id", "class_name"]
    assert [row["split"] for row in rows] == ["train"] * 72 + ["test"] * 36
    assert rows[71]["uri"] == "images/train/0000/0000071.jpg"
    for row in rows:
        assert row["class_name"] == SPECIES[int(row["class_id"])].name
    by_class = [sum(int(row["class_id"]) == c for row in rows) for c in range(36)]
    assert by_class == [3] * 36
    drawn = sample(4, "train", 71, difficulty=1)
    assert (tmp_path / "guide" / rows[71]["uri"]).read_bytes() == drawn.jpeg()
    assert int(rows[71]["class_id"]) == drawn.class_id


def test_paths_do_not_tell_the_class(tmp_path):
    write_field_guide(tmp_path, per_class={"train": 1}, seed=0)
    words = {word.lower() for species in SPECIES for word in species.name.split()}
    names = [str(path.relative_to(tmp_path)).lower() for path in tmp_path.rglob("*.jpg")]
    assert len(names) == 36
    assert not any(word in name for word in words for name in names)


def test_the_question_file_has_one_question_a_line(tmp_path):
    write_field_guide(tmp_path, per_class={"test": 1})
    assert (tmp_path / "questions.txt").read_text().splitlines() == [question.text for question in QUESTIONS]


def test_worker_processes_write_the_same_bytes(tmp_path):
    for workers in (1, 2):
        write_field_guide(tmp_path / str(workers), per_class={"train": 30}, seed=1, workers=workers)
    assert len(digests(tmp_path / "1")) == 30 * 36 + 2
    assert digests(tmp_path / "1") == digests(tmp_path / "2")


def test_more_drawings_leave_the_first_ones_as_they_were(tmp_path):
    write_field_guide(tmp_path / "few", per_class={"train": 1})
    write_field_guide(tmp_path / "many", per_class={"train": 3, "test": 1})
    few, many = (digests(tmp_path / name / "images") for name in ("few", "many"))
    assert few.items() <= many.items()
    assert len(set(many.values())) == len(many)  # train and test share no image


def test_an_object_store_takes_it_through_fsspec():
    path = write_field_guide("memory://bucket/guide", per_class={"train": 1}, seed=2)
    filesystem = fsspec.filesystem("memory")
    assert path == "memory://bucket/guide/samples.csv"
    assert len(filesystem.glob("/bucket/guide/images/train/*/*.jpg")) == 36
    assert filesystem.cat_file("/bucket/guide/samples.csv").startswith(
        b"uri,split,class_id,class_name\nimages/train/0000/"
    )


def test_the_command_line_writes_a_guide(tmp_path, capsys):
    main([str(tmp_path), "--train-per-class", "1", "--test-per-class", "1", "--difficulty", "0.5", "--seed", "9"])
    assert "72 drawings of 36 species" in capsys.readouterr().out
    assert len(list(tmp_path.rglob("*.jpg"))) == 72


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"per_class": {"a/b": 1}}, "'a/b'"),
        ({"per_class": {"": 1}}, "at least one character"),
        ({"per_class": {"train": -1}}, "cannot be negative"),
        ({"difficulty": -0.1}, "difficulty -0.1"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        write_field_guide(tmp_path, **arguments)
    assert not list(tmp_path.iterdir())
