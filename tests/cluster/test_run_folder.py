"""A run works in a folder that is empty or a run's: nothing of a person's is written over."""

import json
import uuid
from pathlib import Path

import pytest

from cluster.run import run_main
from cluster.run_folder import RunFolderError, check_run_folder, is_run
from fgvr import storage
from fgvr.config import build, to_yaml

PRESETS = Path(__file__).parents[2] / "pipelines" / "configs"


def put(folder: Path, **files: str) -> str:
    for name, text in files.items():
        place = folder / name.replace("__", "/").replace("_dot_", ".")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return str(folder)


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"IMG_1_dot_jpg": ""}, "IMG_1.jpg"),
        ({"birds__a_dot_jpg": ""}, "birds"),
        ({"config_dot_yaml": "theme: dark\n"}, "config.yaml"),
        ({"config_dot_yaml": "a: [\n"}, "config.yaml"),
        ({"report__report_dot_html": "<p>"}, "report"),
        ({"tables__prices__list_dot_csv": ""}, "tables"),
        ({"aliases_dot_csv": "answer,label\n", "settings_dot_json": "{}"}, "aliases.csv"),
        ({"annotations_dot_json": "{}"}, "annotations.json"),
        ({"photos_dot_db": ""}, "photos.db"),
        ({"landowner": ""}, "landowner"),
        ({"session_dot_json": '{"tabs": 3}', "notes_dot_txt": ""}, "notes.txt"),
        # Names that a run leaves, too, with another's content.
        ({"config_dot_yaml": "run: {name: a}\ningest: {source: {kind: folder}}\nmllm: {kind: vllm}\n"}, "config.yaml"),
        ({"probe__scan1_dot_jpg": ""}, "probe"),
        ({"probe__tables__prices__list_dot_csv": ""}, "probe"),
        ({"replies__letter_dot_txt": ""}, "replies"),
        ({"owner__deed_dot_pdf": "", "rates_dot_json": "{}"}, "owner"),
        ({"outbox__2024__mail_dot_json": ""}, "outbox"),
        ({"rates_dot_json": "[3, 4]"}, "rates.json"),
        ({"spending_dot_json": "mine"}, "spending.json"),
        ({"mlflow_dot_db": "a text"}, "mlflow.db"),
        ({"poetry_dot_lock": "[[package]]"}, "poetry.lock"),
    ],
)
def test_a_folder_with_something_else_is_refused(tmp_path: Path, files: dict[str, str], named: str) -> None:
    with pytest.raises(RunFolderError, match=rf"holds something that is no run \({named} …\).*another run\.name"):
        check_run_folder(put(tmp_path / "mine", **files))


def test_a_run_s_own_folder_whatever_lies_beside(tmp_path: Path) -> None:
    config = to_yaml(build({"ingest": {"source": {"kind": "folder", "path": "/photos"}}}))
    check_run_folder(str(tmp_path / "new"))
    check_run_folder(put(tmp_path / "hidden", _dot_DS_Store=""))
    check_run_folder(put(tmp_path / "cut off", run_dot_lock="", mlflow_dot_db=""))
    check_run_folder(put(tmp_path / "killed", owner__00000001_dot_json="{}", outbox__1_dot_json="{}"))
    probed = {"rates_dot_json": "{}", "replies__1-a_dot_replies": "", "probe__config_dot_yaml": config}
    check_run_folder(put(tmp_path / "probed", **probed))
    check_run_folder(put(tmp_path / "run", config_dot_yaml=config, notes_dot_txt="mine"))
    check_run_folder(put(tmp_path / "recorded", session_dot_json=json.dumps({"pid": 1}), notes_dot_txt="mine"))
    check_run_folder(put(tmp_path / "copied", tables__samples__0123456789abcdef__part=""))
    assert not is_run(str(tmp_path / "new"))


def test_a_bucket_s_folder() -> None:
    folder = f"memory://{uuid.uuid4().hex}/mine"
    check_run_folder(folder)
    storage.write_bytes(f"{folder}/IMG_1.jpg", b"")
    with pytest.raises(RunFolderError, match=r"IMG_1\.jpg"):
        check_run_folder(folder)
    storage.write_bytes(f"{folder}/config.yaml", to_yaml(build({})).encode())
    check_run_folder(folder)


def test_a_script_that_is_pointed_at_photos_ends_before_it_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "photos", a_dot_jpg="photo", config_dot_yaml="camera: X\n")
    monkeypatch.setattr("cluster.session.ray_session", lambda *_: pytest.fail("it was started"))
    argv = ["--run.folder", str(tmp_path), "--run.name", "photos"]
    with pytest.raises(SystemExit) as ended:
        run_main("A script.", PRESETS, lambda _: None, argv=argv)
    assert ended.value.code == 2
    assert "not started: run.folder, run.name: " in capsys.readouterr().err
    assert sorted(file.name for file in (tmp_path / "photos").iterdir()) == ["a.jpg", "config.yaml"]
    assert (tmp_path / "photos" / "config.yaml").read_text() == "camera: X\n"
