"""A source that draws never draws among what is somebody's."""

import json
import logging
from pathlib import Path

import pytest

from fgvr.config import Config, ConfigError, build, load_config
from fgvr.config.data import BirdScenesSource, FieldGuideSource
from fgvr.demo import bird_scenes, field_guide
from fgvr.sources.source import SourceError, check_place, check_source, read_source

PRESETS = Path(__file__).parents[3] / "pipelines" / "configs"
SMALL = {
    "field_guide": lambda place: FieldGuideSource(draw_to=place, train_per_class=1, test_per_class=1),
    "bird_scenes": lambda place: BirdScenesSource(draw_to=place, train_scenes=2, test_scenes=1, size=32, classes=2),
}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


PERSONS = {
    "photos": {"IMG_1.jpg": b"photo"},
    "questions": {"questions.txt": b"Is it red?\n"},
    "settings": {"settings.json": b'{"theme": "dark"}', "a.jpg": b"photo"},
    "broken settings": {"settings.json": b"{not JSON"},
    "settings that are a list": {"settings.json": b"[1, 2]"},
    "a table": {"samples.csv": b"file,name\na.jpg,wren\n"},
    "a table of these columns": {"samples.csv": b"uri,split,class_id,class_name\nmine/a.jpg,train,0,wren\n"},
    "folders of this name": {"images/train/0000/0000000.jpg": b"photo", "train/000000.jpg": b"photo"},
    "annotations": {"annotations/train.json": b'{"images": [], "annotations": [], "categories": []}'},
}


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("what", PERSONS)
def test_a_folder_with_anything_of_a_person_s_is_refused_and_left_alone(tmp_path: Path, kind: str, what: str) -> None:
    for name, data in PERSONS[what].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    before, source = contents(tmp_path), SMALL[kind](str(tmp_path))
    for refuses in (check_source, check_place, lambda one: read_source(one, str(tmp_path / "run"))):
        with pytest.raises(SourceError, match=r"source\.draw_to = .*neither empty .*--ingest\.source\.kind folder"):
            refuses(source)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("kind", SMALL)
def test_a_file_in_the_folder_s_place(tmp_path: Path, kind: str) -> None:
    (tmp_path / "list.csv").write_bytes(b"uri\n")
    with pytest.raises(SourceError, match=r"draw_to = .*list\.csv: .*neither empty \(list\.csv"):
        check_source(SMALL[kind](str(tmp_path / "list.csv")))


@pytest.mark.parametrize("kind", SMALL)
def test_drawn_once_and_said_and_gone_on_with_where_it_was_cut_short(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    place = tmp_path / "birds"
    place.mkdir()
    (place / ".DS_Store").write_bytes(b"")  # a system's, and hidden
    source = SMALL[kind](str(place))
    module, name = (field_guide, "write_shard") if kind == "field_guide" else (bird_scenes, "draw_scene")
    with monkeypatch.context() as patched:
        patched.setattr("os.sched_getaffinity", lambda _: {0})  # in this process

        def cut(*_: object) -> None:
            raise KeyboardInterrupt

        patched.setattr(module, name, cut)
        with pytest.raises(KeyboardInterrupt):
            read_source(source, str(tmp_path / "run"))
    check_source(source)  # its own, though not empty
    caplog.clear()
    rows = read_source(source, str(tmp_path / "run")).rows
    drawn = {"field_guide": "72 birds", "bird_scenes": "3 scenes with birds"}[kind]
    assert caplog.messages == [f"ingest: drawing {drawn} into {place}"]
    before = contents(place)
    (place / "questions.txt").write_bytes(b"Mine?\n")
    before["questions.txt"] = b"Mine?\n"
    caplog.clear()
    assert read_source(source, str(tmp_path / "run")).rows.equals(rows)
    assert (contents(place), caplog.messages) == (before, [])


def test_photos_named_without_their_kind_are_no_place_to_draw_at(tmp_path: Path) -> None:
    asks = r"source\.path = '/home/me/photos': .*kind is field_guide, which draws.*did you mean --ingest\.source\.kind"
    with pytest.raises(ConfigError, match=asks):
        load_config(["--ingest.source.path", "/home/me/photos"], PRESETS)
    with pytest.raises(ConfigError, match=r"kind is bird_scenes.*did you mean --ingest\.source\.kind folder\?"):
        load_config(["--config", "scenes", "--ingest.source.path", "/home/me/photos"], PRESETS)
    (tmp_path / "mine.yaml").write_text("ingest: {source: {path: /home/me/photos}}")
    with pytest.raises(ConfigError, match=asks):
        load_config(["--config", str(tmp_path / "mine.yaml")], PRESETS)
    with pytest.raises(ConfigError, match=asks):
        build({"ingest": {"source": {"path": "/home/me/photos"}}})
    # With a kind it says what it means; that of the layer below may be one that reads.
    kind = ["--ingest.source.kind", "folder"]
    assert load_config(["--ingest.source.path", "/photos", *kind], PRESETS).ingest.source.path == "/photos"
    photos = load_config(["--config", "photos", "--ingest.source.path", "/photos"], PRESETS)
    assert photos.ingest.source.path == "/photos"


def test_the_place_to_draw_at(tmp_path: Path) -> None:
    def place(config: Config) -> str | None:
        return config.ingest.source.draw_to

    assert place(load_config(["--ingest.source.draw_to", "/drawn"], PRESETS)) == "/drawn"
    assert place(load_config([], PRESETS)) is None
    # The name until 0.1, where the kind beside it leaves no doubt.
    old = {"ingest": {"source": {"kind": "field_guide", "path": "/drawn"}}}
    assert place(build(old)) == "/drawn"
    with pytest.raises(ConfigError, match=r"ingest\.source\.path: "):
        build({"ingest": {"source": {"kind": "field_guide", "path": "/drawn", "draw_to": "/there"}}})


@pytest.mark.parametrize("module", [field_guide, bird_scenes])
@pytest.mark.parametrize("what", PERSONS)
def test_the_commands_that_draw_leave_a_person_s_folder_alone(
    tmp_path: Path, module: object, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, data in PERSONS[what].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    before = contents(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        module.main([str(tmp_path)])
    assert "neither empty nor" in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_the_commands_draw_again_into_their_own(tmp_path: Path) -> None:
    for module, few in (
        (field_guide, ["--train-per-class", "1", "--test-per-class", "0"]),
        (bird_scenes, ["--train", "1", "--test", "1", "--size", "32"]),
    ):
        place = tmp_path / module.__name__
        module.main([str(place), *few])
        before = contents(place)
        module.main([str(place), *few])
        assert contents(place) == before
    (tmp_path / field_guide.__name__ / "questions.txt").write_text("Mine?\n")
    with pytest.raises(SystemExit, match="2"):
        field_guide.main([str(tmp_path / field_guide.__name__), "--train-per-class", "1"])


def test_settings_of_the_guide_are_told_from_a_person_s(tmp_path: Path) -> None:
    """A file that happens to have one of the keys."""
    (tmp_path / "settings.json").write_text(json.dumps({"seed": 0}))
    with pytest.raises(SourceError, match="neither empty"):
        check_source(SMALL["field_guide"](str(tmp_path)))
