"""export on a copy of a kept run: every format read back by the library that it is for, and answers brought back."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fgvr.review.decisions import Decision, Kind
from fgvr.review.log import DecisionLog, effective_decisions
from pipelines import export
from tests.golden.test_kept_runs import DRAWINGS, unpacked

HOSTILE = '../../=cmd|" <b>&\n\u202e'
"""A name that would leave the folder, end a line, be a formula or a tag."""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, which no test changes."""
    return unpacked("run_finished.tar.gz", tmp_path_factory.mktemp("kept"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The same run for tests that change it."""
    return unpacked("run_finished.tar.gz", tmp_path / "run")


def rows_of(run: Path, table: str) -> list[dict[str, Any]]:
    """All rows of a table."""
    parts = sorted(run.glob(f"tables/{table}/*/part-*.parquet"))
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


def renamed(run: Path, names: dict[int, str | None], scores: dict[int, float] | None = None) -> None:
    """Let the predictions give these photos other names and scores."""
    (part,) = run.glob("tables/predictions/*/part-00000000.parquet")
    rows = pq.read_table(part)
    for column, values in (("label", names), ("score", scores or {})):
        index, all_values = rows.schema.get_field_index(column), rows[column].to_pylist()
        for row, value in values.items():
            all_values[row] = value
        rows = rows.set_column(index, rows.schema.field(index), pa.array(all_values, rows.schema.field(index).type))
    pq.write_table(rows, part)


def exported(run: Path, out: Path, kind: str, *more: str) -> dict[str, Any]:
    """What `export.json` says of an export that worked."""
    assert export.main([str(run), "--to", kind, "--out", str(out), *more]) == 0
    facts: dict[str, Any] = json.loads((out / "export.json").read_text())
    return facts


def test_a_dataset_is_read_by_hugging_face_s_library(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    facts = exported(kept, tmp_path / "out", "dataset")
    found = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in found.items()} == {"test": 36, "train": 72} == facts["splits"]
    predictions = {row["image_id"]: row for row in rows_of(kept, "predictions")}
    samples = rows_of(kept, "samples")
    for split, rows in found.items():
        label = rows.features["label"]
        for row in rows.select(range(0, len(rows), 7)):
            own, sample = predictions[row["image_id"]], samples[row["image_id"]]
            assert label.int2str(row["label"]) == own["label"]
            assert row["score"] == pytest.approx(own["score"])
            assert (row["true_name"], sample["split"]) == (sample["class_name"], split)
            with Image.open(sample["uri"]) as original:
                assert np.array_equal(np.asarray(row["image"].convert("RGB")), np.asarray(original.convert("RGB")))


def test_an_image_folder_is_read_by_torchvision_and_by_hugging_face(run: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    from torchvision.datasets import ImageFolder

    names = [HOSTILE, "Finch", "FINCH", "con", "__hidden", ".dot", "..", "a/b", "a:b"]
    renamed(run, dict(enumerate(names)))
    exported(run, tmp_path / "out", "imagefolder")
    with (tmp_path / "out" / "photos.csv").open(newline="") as file:
        listed = {row["file"]: row["name"] for row in csv.DictReader(file)}
    assert [listed[name] for name in sorted(listed, key=lambda each: each[-12:])][: len(names)] == names
    folders = {name.split("/")[1] for name in listed}
    assert len({folder.casefold() for folder in folders}) == len(set(listed.values()))
    assert not {"con", "..", ""} & folders
    seen = [ImageFolder(str(tmp_path / "out" / split)) for split in ("train", "test")]
    assert sum(map(len, seen)) == DRAWINGS == len(listed)
    files = {
        file.relative_to(tmp_path / "out").as_posix() for file in (tmp_path / "out").rglob("*.*") if file.is_file()
    }
    assert files == {*listed, "photos.csv", "names.csv", "export.json"}
    loaded = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert sum(map(len, loaded.values())) == DRAWINGS
    by_id = {int(Path(name).stem): name for name in listed}
    for row in rows_of(run, "samples")[::10]:
        assert (tmp_path / "out" / by_id[row["image_id"]]).read_bytes() == Path(row["uri"]).read_bytes()


def test_links_point_to_the_photos(kept: Path, tmp_path: Path) -> None:
    exported(kept, tmp_path / "out", "imagefolder", "--photos", "link", "--split", "test")
    links = list((tmp_path / "out" / "test").rglob("*.*"))
    assert len(links) == 36
    assert {str(link.readlink()) for link in links} == {
        row["uri"] for row in rows_of(kept, "samples") if row["split"] == "test"
    }


@pytest.mark.parametrize("photos", ["copy", "link"])
def test_coco_is_read_by_pycocotools(kept: Path, tmp_path: Path, photos: str) -> None:
    from pycocotools.coco import COCO

    exported(kept, tmp_path / "out", "coco", "--photos", photos)
    found = COCO(str(tmp_path / "out" / "annotations.json"))
    predictions = {row["image_id"]: row for row in rows_of(kept, "predictions")}
    assert len(found.getImgIds()) == DRAWINGS == len(found.getAnnIds())
    for image in found.loadImgs(found.getImgIds())[::9]:
        (annotation,) = found.loadAnns(found.getAnnIds(imgIds=image["id"]))
        (category,) = found.loadCats(annotation["category_id"])
        assert category["name"] == predictions[image["id"]]["label"]
        with Image.open(tmp_path / "out" / "images" / image["file_name"]) as photo:  # link: the name is absolute
            assert (image["width"], image["height"]) == photo.size
        assert annotation["bbox"] == [0, 0, image["width"], image["height"]]


@pytest.mark.parametrize("photos", ["copy", "link"])
def test_fiftyone_s_files(kept: Path, tmp_path: Path, photos: str) -> None:
    exported(kept, tmp_path / "out", "fiftyone", "--photos", photos)
    labels = json.loads((tmp_path / "out" / "labels.json").read_text())
    predictions = rows_of(kept, "predictions")
    assert len(labels["labels"]) == DRAWINGS
    for row in predictions[::10]:
        label = labels["labels"][f"{row['image_id']:09}"]
        assert labels["classes"][label["label"]] == row["label"]
        assert label["confidence"] == pytest.approx(row["score"])
    if photos == "link":
        places = json.loads((tmp_path / "out" / "data.json").read_text())
        assert sorted(places.values()) == [row["uri"] for row in rows_of(kept, "samples")]
    else:
        assert {file.stem for file in (tmp_path / "out" / "data").iterdir()} == set(labels["labels"])


@pytest.mark.slow
@pytest.mark.parametrize("photos", ["copy", "link"])
def test_fiftyone_s_importer_reads_its_files(
    kept: Path, tmp_path: Path, photos: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The importer alone: a data set would need a MongoDB server, which its package does not bring for every system.
    monkeypatch.setenv("FIFTYONE_DISABLE_SERVICES", "1")
    monkeypatch.setenv("FIFTYONE_DO_NOT_TRACK", "1")
    importers = pytest.importorskip("fiftyone.utils.data.importers", reason="1 GB: docs/export.md")
    exported(kept, tmp_path / "out", "fiftyone", "--photos", photos)
    predictions = {f"{row['image_id']:09}": row for row in rows_of(kept, "predictions")}
    ids = {row["uri"]: f"{row['image_id']:09}" for row in rows_of(kept, "samples")}
    places = "data.json" if photos == "link" else None
    reader = importers.FiftyOneImageClassificationDatasetImporter(str(tmp_path / "out"), data_path=places)
    with reader:
        found = list(reader)
    assert len(found) == DRAWINGS
    for place, _, label in found:
        row = predictions[ids.get(place, Path(place).stem)]
        assert Path(place).is_file()
        assert (label.label, label.confidence) == (row["label"], pytest.approx(row["score"]))


@pytest.mark.slow
def test_a_run_s_student_leaves_as_onnx_and_for_timm(run: Path, tmp_path: Path) -> None:
    import onnxruntime
    import timm
    import torch

    from fgvr.models.student import StudentSpec, build_student, load_student, save_student, timm_preprocess

    (folder,) = run.glob("tables/makd/*/model")  # of which the archive keeps no weights
    facts = json.loads((folder / "model.json").read_text())
    labels, questions = tuple(facts["labels"]), tuple(facts["questions"])
    spec = StudentSpec(facts["backbone"], labels, questions, timm_preprocess(facts["backbone"], 64))
    save_student(folder, spec, build_student(spec).state_dict(), {})
    exported(run, tmp_path / "onnx", "onnx", "--model", "makd")
    exported(run, tmp_path / "timm", "timm")
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["labels"]) == facts["labels"]
    pixels = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    spec, model = load_student(folder)
    with torch.inference_mode():
        inputs = spec.preprocess.normalise(torch.from_numpy(pixels))
        logits = spec.split(model(inputs))[0]
        same = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()(inputs)
    found = session.run(["probabilities"], {"images": pixels.transpose(0, 3, 1, 2)})[0]
    assert np.abs(found - logits.softmax(dim=1).numpy()).max() <= 1e-3
    assert torch.allclose(same, logits, atol=1e-4)


def test_vectors_are_found_in_the_index(kept: Path, tmp_path: Path) -> None:
    import faiss

    exported(kept, tmp_path / "out", "vectors")
    index = faiss.read_index(str(tmp_path / "out" / "index.faiss"))
    photos = pq.read_table(tmp_path / "out" / "photos.parquet").to_pylist()
    assert [(row["image_id"], row["uri"]) for row in photos] == [
        (row["image_id"], row["uri"]) for row in rows_of(kept, "samples")
    ]
    rows = rows_of(kept, "embeddings")
    vectors = np.stack([np.frombuffer(row["vector"], "<f2") for row in rows]).astype(np.float32)
    cosines, ids = index.search(vectors, 3)
    exact = np.sort(vectors @ vectors.T, axis=1)[:, ::-1][:, :3]
    assert np.allclose(cosines, exact, atol=1e-5)
    assert np.allclose(np.take_along_axis(vectors @ vectors.T, ids, axis=1), cosines, atol=1e-5)


def test_a_table_without_scores_and_a_limit(kept: Path, run: Path, tmp_path: Path, capsys: Any) -> None:
    assert export.main([str(kept), "--to", "coco", "--table", "labels", "--min-score", "0.5"]) == 2
    assert "the table labels has no scores" in capsys.readouterr().err
    renamed(run, {3: None}, {0: 0.1, 1: float("nan"), 2: 0.7})
    high = sum(row["score"] >= 0.5 for row in rows_of(run, "predictions") if row["label"])
    facts = exported(run, tmp_path / "out", "label-studio", "--min-score", "0.5")
    assert facts["photos"] == high
    assert facts["left_out"]["no name"] == 1
    assert sum(facts["left_out"].values()) + facts["photos"] == DRAWINGS


def test_a_photo_that_cannot_be_read_is_counted(run: Path, tmp_path: Path) -> None:
    samples = rows_of(run, "samples")
    Path(samples[0]["uri"]).unlink()
    Path(samples[1]["uri"]).write_bytes(Path(samples[1]["uri"]).read_bytes()[:200])
    Path(samples[2]["uri"]).write_bytes(b"no photo at all")
    facts = exported(run, tmp_path / "out", "coco")
    assert facts["photos"] == DRAWINGS - 3
    assert facts["left_out"] == {"corrupt": 1, "not_an_image": 1, "not_found": 1}


def test_what_people_decided_overrules_the_table(run: Path, tmp_path: Path) -> None:
    samples, predictions = rows_of(run, "samples"), rows_of(run, "predictions")
    places = [row["uri"] for row in samples]
    own = [row["label"] for row in predictions]
    # The next photo has the name that goes.
    merged = next(name for name in own[3:] if name not in own[:3])
    DecisionLog(run).append(
        [
            Decision(Kind.NAME, "ann", 0, places[0], before=own[0], after="Great Auk"),
            Decision(Kind.WRONG, "ann", 1, places[1], before=own[1]),
            Decision(Kind.CANNOT_TELL, "ann", 2, places[2]),
            Decision(Kind.RENAME, "ann", before=merged, after="Dodo"),
        ]
    )
    facts = exported(run, tmp_path / "out", "fiftyone")
    labels = json.loads((tmp_path / "out" / "labels.json").read_text())

    def said(number: int) -> str:
        return str(labels["classes"][labels["labels"][f"{number:09}"]["label"]])

    assert said(0) == "Great Auk"
    assert labels["labels"]["000000000"]["attributes"]["source"] == "person"
    assert "confidence" not in labels["labels"]["000000000"]
    assert facts["left_out"] == {"a person said it is wrong": 1}
    assert said(2) == own[2]
    assert {said(number) for number, name in enumerate(own) if name == merged} == {"Dodo"}
    exported(run, tmp_path / "as_it_was", "fiftyone", "--without-review")
    assert merged in json.loads((tmp_path / "as_it_was" / "labels.json").read_text())["classes"]


def answered(task: dict[str, Any], name: str, **more: Any) -> dict[str, Any]:
    """A task as Label Studio exports it, with somebody's answer."""
    (result,) = task["predictions"][0]["result"]
    (kind,) = result["value"]
    value = [[name]] if kind == "taxonomy" else [name]
    annotation = {"id": 7, "completed_by": 1, "was_cancelled": False, "updated_at": "2026-11-30T10:00:00Z"}
    annotation["result"] = [{**result, "value": {kind: value}}]
    return {"id": 1, "data": task["data"], "annotations": [annotation | more], "predictions": []}


def test_answers_of_label_studio_come_back_once(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported(run, tmp_path / "out", "label-studio")
    tasks = json.loads((tmp_path / "out" / "tasks-00000.json").read_text())
    own = [task["predictions"][0]["result"][0]["value"]["choices"][0] for task in tasks]
    assert own == [row["label"] for row in rows_of(run, "predictions")]
    other = next(name for name in own if name != own[1])
    strange = {**tasks[5], "data": {**tasks[5]["data"], "uri": "/elsewhere.jpg"}}
    answers = [
        answered(tasks[0], own[0], completed_by={"id": 3, "email": "ann@example.org"}),
        answered(tasks[1], other),
        answered(tasks[2], other, was_cancelled=True),
        {"id": 4, "data": tasks[3]["data"], "annotations": []},
        {**tasks[4]["data"], "name": HOSTILE, "annotator": 9, "annotation_id": 12, "id": 5},  # JSON-MIN
        answered(strange, other),
        answered(tasks[6], "b" * 900),
    ]
    file = tmp_path / "project.json"
    file.write_text(json.dumps(answers))
    assert export.main([str(run), "--from-label-studio", str(file)]) == 0
    said = capsys.readouterr().out
    assert "3 decisions appended" in said
    assert "2 tasks without an answer" in said
    assert "1 about photos that are not in this run" in said
    assert "1 refused" in said
    found = effective_decisions(run).photos
    first, second, fifth = (found[tasks[number]["data"]["uri"]] for number in (0, 1, 4))
    assert (first.kind, first.name, first.who) == (Kind.RIGHT, own[0], "Label Studio, ann@example.org")
    assert (second.kind, second.name, second.certain) == (Kind.NAME, other, True)
    assert (fifth.name, fifth.queue) == (HOSTILE, "label_studio")
    assert len(found) == 3
    before = (run / "review" / "decisions.jsonl").read_bytes()
    assert export.main([str(run), "--from-label-studio", str(file)]) == 0
    assert "0 decisions appended" in capsys.readouterr().out
    assert (run / "review" / "decisions.jsonl").read_bytes() == before


def test_the_latest_of_several_answers_counts(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported(run, tmp_path / "out", "label-studio")
    task = json.loads((tmp_path / "out" / "tasks-00000.json").read_text())[0]
    late, early = answered(task, "Late", updated_at="2026-11-30T12:00:00Z", id=1), answered(task, "Early", id=2)
    late["annotations"] += early["annotations"]
    file = tmp_path / "project.json"
    file.write_text(json.dumps([late]))
    assert export.main([str(run), "--from-label-studio", str(file)]) == 0
    assert "1 photos with different answers" in capsys.readouterr().out
    assert effective_decisions(run).photos[task["data"]["uri"]].name == "Late"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}", "no list of tasks"),
        ("no json", "is not JSON"),
        ("[1]", "no list of tasks"),
        ('[{"data": {"image": "x"}}]', "has no `uri`"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_other_files_are_no_answers(kept: Path, tmp_path: Path, capsys: Any, content: str, said: str) -> None:
    (tmp_path / "project.json").write_text(content)
    assert export.main([str(kept), "--from-label-studio", str(tmp_path / "project.json")]) == 2
    assert said in capsys.readouterr().err
    assert not (kept / "review").exists()


def test_label_studio_s_configuration_holds_any_name(run: Path, tmp_path: Path) -> None:
    renamed(run, {0: HOSTILE, 1: '"/><Script>'})
    exported(run, tmp_path / "out", "label-studio", "--serve", f"{run}/=/data/local-files/?d=photos/")
    config = ET.fromstring((tmp_path / "out" / "labelling.xml").read_text())  # noqa: S314  # it was written here
    assert {each.tag for each in config.iter()} == {"View", "Image", "Choices", "Choice"}
    assert {HOSTILE, '"/><Script>'} <= {each.attrib["value"] for each in config.iter("Choice")}
    tasks = json.loads((tmp_path / "out" / "tasks-00000.json").read_text())
    assert all(task["data"]["image"].startswith("/data/local-files/?d=photos/field_guide/") for task in tasks)


def test_label_studio_s_own_library_takes_the_tasks(kept: Path, tmp_path: Path) -> None:
    interface = pytest.importorskip("label_studio_sdk.label_interface", reason="it wants NumPy 2.2: docs/export.md")
    exported(kept, tmp_path / "out", "label-studio")
    found = interface.LabelInterface((tmp_path / "out" / "labelling.xml").read_text())
    assert found.validate() is None
    tasks = json.loads((tmp_path / "out" / "tasks-00000.json").read_text())
    for task in tasks[::9]:
        assert found.validate_task({"data": task["data"]})
        assert found.validate_prediction(task["predictions"][0])
    tasks[0]["predictions"][0]["result"][0]["value"]["choices"] = ["no such name"]
    assert not found.validate_prediction(tasks[0]["predictions"][0])


def test_an_interrupted_export_never_looks_finished_and_starts_over(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fgvr.export import annotations, photos

    def breaks(*arguments: Any, **more: Any) -> Any:
        for number, each in enumerate(photos.photo_files(*arguments, **more)):
            if number == 20:
                raise KeyboardInterrupt
            yield each

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(annotations, "photo_files", breaks)
        assert export.main([str(kept), "--to", "coco", "--out", str(out)]) == 130
    assert not out.exists()
    assert not (tmp_path / "out.partial" / "annotations.json").exists()
    (tmp_path / "out.partial" / "images" / "left.jpg").write_bytes(b"of the first try")
    exported(kept, out, "coco", "--split", "test")
    assert not (tmp_path / "out.partial").exists()
    assert len(list((out / "images").iterdir())) == 36


def test_nothing_that_is_there_is_overwritten_unasked(kept: Path, tmp_path: Path, capsys: Any) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    assert export.main([str(kept), "--to", "coco", "--out", str(mine), "--overwrite"]) == 2
    assert "holds other files" in capsys.readouterr().err
    assert (mine / "thesis.txt").read_text() == "years of work"
    out = tmp_path / "out"
    exported(kept, out, "coco")
    first = (out / "annotations.json").read_bytes()
    assert export.main([str(kept), "--to", "coco", "--out", str(out), "--split", "test"]) == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert (out / "annotations.json").read_bytes() == first
    exported(kept, out, "coco", "--split", "test", "--overwrite")
    assert len(json.loads((out / "annotations.json").read_text())["images"]) == 36
    assert {each.name for each in tmp_path.iterdir()} == {"mine", "out"}


def test_an_object_store_gets_the_same_files(kept: Path, tmp_path: Path) -> None:
    import fsspec

    store = fsspec.filesystem("memory")
    place = "memory://exports/birds"
    for more in ((), ("--overwrite",)):
        assert export.main([str(kept), "--to", "dataset", "--out", place, *more]) == 0
        names = {name.partition("/birds/")[2] for name in store.find("/exports/birds")}
        data = {"data/train-00000.parquet", "data/test-00000.parquet"}
        assert names == {*data, "README.md", "export.json"}
        store.pipe_file("/exports/birds/data/old-00000.parquet", b"of an earlier export")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "one of --to and --from-label-studio"),
        (["--to", "coco", "--model", "makd"], "--model goes with --to onnx or timm"),
        (["--to", "dataset", "--photos", "link"], "--photos link goes with"),
        (["--to", "coco", "--min-score", "nan"], "a number from 0 to 1"),
        (["--to", "label-studio", "--serve", "/photos"], "BEGINNING=ADDRESS"),
    ],
)
def test_options_that_do_not_go_together(kept: Path, capsys: Any, arguments: list[str], said: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        export.main([str(kept), *arguments])
    assert said in capsys.readouterr().err


def test_what_is_not_there_is_a_sentence(kept: Path, tmp_path: Path, capsys: Any) -> None:
    for arguments, said in (
        ([str(tmp_path / "nothing"), "--to", "coco"], "there is no run in"),
        ([str(kept), "--to", "coco", "--split", "tests"], "there are: test, train"),
        ([str(kept), "--to", "onnx", "--model", "heads"], "has not finished heads"),
        ([str(kept), "--from-label-studio", str(tmp_path / "no.json")], "there is no file"),
        ([str(kept), "--to", "coco", "--min-score", "1"], "no photo is left to export"),
    ):
        assert export.main(arguments) == 2
        assert said in capsys.readouterr().err
