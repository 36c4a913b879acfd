from collections import Counter

import pytest

from fgvr.config.data import FieldGuideSource, ImageLimits
from fgvr.demo.drawn_files import QUESTIONS_FILE
from fgvr.demo.species import SPECIES
from fgvr.images.read import read_image
from fgvr.sources.field_guide import field_guide_folder
from fgvr.sources.source import SourceError, read_source, source_state
from fgvr.storage import join, read_bytes


def test_drawn_once_into_the_run(tmp_path):
    source = FieldGuideSource(train_per_class=2, test_per_class=1)
    rows = read_source(source, str(tmp_path)).rows.to_pylist()
    assert Counter(row["split"] for row in rows) == {"train": 2 * len(SPECIES), "test": len(SPECIES)}
    for row in rows[:5]:
        assert SPECIES[row["class_id"]].name == row["class_name"]
    first = rows[0]["uri"]
    assert read_image(first, ImageLimits()).size == (64, 64)
    changed = tmp_path / first
    stamp = changed.stat().st_mtime_ns
    assert read_source(source, str(tmp_path)).rows.to_pylist() == rows
    assert changed.stat().st_mtime_ns == stamp  # not drawn again
    assert read_bytes(join(field_guide_folder(source, str(tmp_path)), QUESTIONS_FILE)).decode().count("?") >= 20


def test_other_settings_are_other_drawings(tmp_path):
    one, two = (
        FieldGuideSource(train_per_class=1, test_per_class=1),
        FieldGuideSource(train_per_class=2, test_per_class=1),
    )
    assert source_state(one) != source_state(two)
    assert read_source(one, str(tmp_path)).rows.num_rows == 2 * len(SPECIES)
    assert read_source(two, str(tmp_path)).rows.num_rows == 3 * len(SPECIES)


def test_a_place_of_its_own_is_not_drawn_over(tmp_path):
    place = str(tmp_path / "birds")
    read_source(FieldGuideSource(draw_to=place, train_per_class=1, test_per_class=1), str(tmp_path))
    with pytest.raises(
        SourceError, match=r"was drawn with train_per_class 1 \(asked for: 2\), seed 0 \(asked for: 4\)"
    ):
        read_source(FieldGuideSource(draw_to=place, train_per_class=2, test_per_class=1, seed=4), str(tmp_path))


def test_questions_that_a_person_changed_are_not_drawn_over(tmp_path):
    place = tmp_path / "birds"
    source = FieldGuideSource(draw_to=str(place), train_per_class=1, test_per_class=1)
    read_source(source, str(tmp_path))
    (place / "samples.csv").unlink()  # as where the drawing was cut short
    (place / "questions.txt").write_text("Has it my ring?\n")
    with pytest.raises(SourceError, match=r"questions\.txt was changed"):
        read_source(source, str(tmp_path))
    assert (place / "questions.txt").read_text() == "Has it my ring?\n"
    (place / "questions.txt").unlink()
    assert read_source(source, str(tmp_path)).kept.rows == 72


def test_a_place_below_a_file_is_refused_in_words(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(SourceError, match="lies below a file"):
        read_source(FieldGuideSource(draw_to=str(tmp_path / "photo.jpg" / "birds")), str(tmp_path))
