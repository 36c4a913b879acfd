"""Teachers by their folder: found, refused, and known by their content."""

import shutil
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest
import torch

from fgvr import schemas
from fgvr.config import Config, ConfigError, Makd, build
from fgvr.models.student import StudentSpec, build_student, save_student, timm_preprocess
from fgvr.tables import Table, write_part
from fgvr.training.teacher import open_teacher
from pipelines.makd import Makd as MakdStage
from pipelines.preflight import check_tables
from pipelines.run_tables import Look
from pipelines.student_task import check_student, student_task
from pipelines.teacher import MllmTeacher, check_classes, find_teacher, recipe


def check(config: Config) -> None:
    check_tables(config, ["class_scores", "base", "makd"] if config.makd.distillation.kind != "none" else ["makd"])


def settings(teacher: Path | str, **more: object) -> Makd:
    return Makd.model_validate({"distillation": {"kind": "kd", "teacher": str(teacher), **more}})


def student(folder: Path, seed: int = 0, labels: tuple[str, ...] = ("Wren", "Teal"), facts: str = "") -> Path:
    spec = StudentSpec("test_byobnet", labels, (), timm_preprocess("test_byobnet", 32))
    torch.manual_seed(seed)
    save_student(folder, spec, build_student(spec).state_dict(), {"measured": facts})
    return folder


def test_a_model_or_the_table_that_holds_one(tmp_path: Path) -> None:
    model = student(tmp_path / "table" / "model")
    by_model, by_table = find_teacher(settings(model)), find_teacher(settings(tmp_path / "table"))
    assert by_model == by_table
    assert by_model is not None
    assert by_model.uri == str(model)
    assert by_model.spec.labels == ("Wren", "Teal")
    assert find_teacher(Makd()) is None


def test_a_teacher_is_its_content_wherever_it_lies(tmp_path: Path) -> None:
    def decided(folder: Path | str, **more: object) -> object:
        made = settings(folder, **more)
        return recipe(made, find_teacher(made))

    here = decided(student(tmp_path / "here"))
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    assert decided(tmp_path / "there") == here
    assert decided(student(tmp_path / "remeasured", facts="0.7")) == here  # what was noted beside it is not the model
    assert decided(student(tmp_path / "other", seed=1)) != here
    assert decided(student(tmp_path / "renamed", labels=("Teal", "Wren"))) != here
    assert decided(tmp_path / "here", temperature=2) != here
    assert str(tmp_path) not in str(here)
    assert "teacher" not in str(recipe(Makd(), None))


def test_a_teacher_on_an_object_store_is_fetched_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FGVR_CACHE", str(tmp_path / "cache"))
    student(tmp_path / "m")
    remote = fsspec.filesystem("memory")
    remote.put(str(tmp_path / "m") + "/", "/teachers/base/model/", recursive=True)
    local, found = find_teacher(settings(tmp_path / "m")), find_teacher(settings("memory://teachers/base"))
    assert local is not None
    assert found is not None
    assert (found.uri, found.identity) == ("memory://teachers/base/model", local.identity)
    found.put(str(tmp_path / "copy"), np.arange(3))
    shutil.rmtree(tmp_path / "m")
    remote.rm("/teachers", recursive=True)
    kept = find_teacher(settings(tmp_path / "copy"))
    assert kept is not None
    assert kept.identity == local.identity


def test_what_is_no_student_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        ConfigError, match=r"distillation\.teacher = .*/empty: neither it nor its model/ has a model\.json"
    ):
        find_teacher(settings(tmp_path / "empty"))
    student(tmp_path / "damaged")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"short")
    with pytest.raises(ConfigError, match=r"teacher = .*/damaged: .*does not fit model\.json"):
        find_teacher(settings(tmp_path / "damaged"))
    student(tmp_path / "near")
    text = (tmp_path / "near" / "model.json").read_text().replace('"student"', '"near"')
    (tmp_path / "near" / "model.json").write_text(text)
    with pytest.raises(ConfigError, match=r"teacher = .*/near: .*kind 'near'.*expected student"):
        find_teacher(settings(tmp_path / "near"))
    with pytest.raises(ConfigError, match=r"makd\.distillation\.teacher = /nowhere"):
        check(build({"makd": {"distillation": {"kind": "dkd", "teacher": "/nowhere"}}}))
    with pytest.raises(ConfigError, match=r"makd\.distillation\.teacher: required"):
        build({"makd": {"distillation": {"kind": "kd"}}})


@pytest.mark.parametrize(
    ("rate", "teaching", "warned"),
    [
        (0.2, {"kind": "kd"}, True),
        (0.2, {"kind": "dkd", "temperature": 2}, True),
        (0.1, {"kind": "kd"}, False),
        (0.2, {"kind": "kd", "temperature": 1}, False),  # nothing is multiplied
        (0.2, None, False),
    ],
)
def test_a_rate_too_high_for_a_teacher_draws_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, rate: float, teaching: dict[str, object] | None, warned: bool
) -> None:
    given = {} if teaching is None else {"distillation": teaching | {"teacher": str(student(tmp_path / "m"))}}
    check_student(build({"makd": {"lr": rate} | given}))
    assert ("makd.lr = 0.2 may be too high" in caplog.text) == warned


def photos(folder: Path, settings: Makd) -> Look:
    """A run with four photos of two classes; whatever else is asked for is too early."""
    names = ["Teal", "Wren", "Teal", "Wren"]
    rows = [
        {"image_id": n, "uri": f"{n}.png", "split": "train", "class_id": n % 2, "class_name": name}
        for n, name in enumerate(names)
    ]
    write_part(str(folder), 0, pa.Table.from_pylist(rows, schemas.SAMPLES))
    samples = Table(str(folder), "samples", "f", 4, 0, 1, 4, 0.0, extra={"splits": {"train": 4}})
    return Look(build({}).model_copy(update={"makd": settings}), str(folder / "run"), given={"samples": samples})


def test_other_classes_show_before_anything_is_asked(tmp_path: Path) -> None:
    wrong = settings(student(tmp_path / "m", labels=("Wren", "Owl")))
    run = photos(tmp_path / "samples", wrong)
    message = r"1 of the student's classes that it does not know \('Teal'\); .*\('Owl'\)"
    with pytest.raises(ConfigError, match=message):
        MakdStage().recheck(run)
    with pytest.raises(ConfigError, match=message):
        student_task(run, wrong)  # without questions and aspects
    right = settings(student(tmp_path / "right"))  # the same classes in another order
    MakdStage().recheck(photos(tmp_path / "again", right))


def test_a_single_class_cannot_be_taught(tmp_path: Path) -> None:
    teacher = find_teacher(settings(student(tmp_path / "m", labels=("Wren",))))
    for each in (teacher, None):  # None: the MLLM
        with pytest.raises(ConfigError, match=r"there is only one class \(Wren\)"):
            check_classes(each, ("Wren",))


def test_a_server_cannot_be_the_teacher() -> None:
    server = {"kind": "openai", "model": "m"}
    values = {"mllm": server, "makd": {"distillation": {"kind": "kd", "teacher": "mllm"}}}
    with pytest.raises(ConfigError, match=r"teacher = mllm: chat servers give no probability .*mllm\.kind = openai"):
        check(build(values))
    check(build({**values, "mllm": {}}))  # the demo's model runs in the worker


def test_the_mllm_s_scores_stand_beside_the_images_and_failed_ones_are_nan(tmp_path: Path) -> None:
    failure = {"reason": "corrupt", "detail": ""}
    rows = [
        {"image_id": 2, "scores": [-1.0, -2.0], "error": None},
        {"image_id": 4, "scores": None, "error": failure},
        {"image_id": 7, "scores": [-3.0, -0.5], "error": None},
    ]
    write_part(str(tmp_path / "t"), 0, pa.Table.from_pylist(rows, schemas.class_scores(2)))
    table = Table(str(tmp_path / "t"), "class_scores", "f", 3, 1, 1, 3, 0.0, extra={"classes": 2})
    MllmTeacher(table).put(str(tmp_path / "teacher"), np.array([4, 7, 9]))
    teacher = open_teacher(str(tmp_path / "teacher"), ("a", "b"), 3, torch.device("cpu"))
    assert teacher.known.tolist() == [False, True, False]  # 9 was never asked about
    assert teacher.logits(torch.zeros(1, 4, 4, 3, dtype=torch.uint8), np.array([1])).tolist() == [[-3.0, -0.5]]


@pytest.mark.parametrize("wanted", [[0, 1, 2, 3, 4, 5, 6], [1, 4, 9], [5], [8, 9]])
def test_scores_come_part_by_part(tmp_path: Path, wanted: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.teacher.UNKNOWN_ROWS", 1)
    failure = {"reason": "corrupt", "detail": ""}
    rows = [{"image_id": n, "scores": [n, -n], "error": None} for n in range(7)]
    rows[4] = {"image_id": 4, "scores": None, "error": failure}
    for number in range(3):
        part = pa.Table.from_pylist(rows[3 * number : 3 * number + 3], schemas.class_scores(2))
        write_part(str(tmp_path / "t"), number, part)
    table = Table(str(tmp_path / "t"), "class_scores", "f", 7, 1, 3, 3, 0.0, extra={"classes": 2})
    MllmTeacher(table).put(str(tmp_path / "teacher"), np.array(wanted))
    scores = np.load(tmp_path / "teacher" / "scores.npy")
    expected = [[n, -n] if n < 7 and n != 4 else [np.nan, np.nan] for n in wanted]
    np.testing.assert_array_equal(scores, np.array(expected, dtype=np.float32))
