"""The stages makd and infer on drawn birds, under Ray, with the guide's true answers in place of the MLLM's."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from sklearn.metrics import mutual_info_score

from cluster.stage import RunContext
from fgvr import schemas
from fgvr.config import ConfigError, build
from fgvr.demo.questions import QUESTIONS, truths
from fgvr.demo.species import SPECIES
from fgvr.models.infer import load_classifier
from fgvr.models.student import load_student
from fgvr.tables import Table, write_part
from fgvr.training.assemble import random_p_yes
from pipelines import infer, report_aspects
from pipelines.preflight import check_tables
from pipelines.registry import stage_of
from pipelines.run_tables import Run
from pipelines.student_task import assembled, student_tables, student_task
from tests.given_run import GivenRun
from tests.untracked import NoTracking

pytestmark = pytest.mark.slow


class Guide(GivenRun):
    """Aspects are the truth about each species; training image 40 has none."""

    def given_questions(self) -> Table:
        rows = [{"question_id": n, "text": q.text, "rank": n + 1, "source": "guide"} for n, q in enumerate(QUESTIONS)]
        return self._committed("questions", pa.Table.from_pylist(rows, schemas.QUESTIONS))

    def given_aspects(self) -> Table:
        rows = []
        for sample in self.table("samples").read().to_pylist():
            answers = truths(SPECIES[sample["class_id"]].attributes).astype(float).tolist()
            failed = sample["image_id"] == 40
            error = {"reason": "no_label_mass", "detail": ""} if failed else None
            rows.append({"image_id": sample["image_id"], "p_yes": None if failed else answers, "error": error})
        return self._committed("aspects", pa.Table.from_pylist(rows, schemas.aspects(len(QUESTIONS))))

    def _committed(self, name: str, rows: pa.Table) -> Table:
        folder = f"{self.context.folder}/{name}"
        write_part(folder, 0, rows)
        table = Table(folder, name, "f", rows.num_rows, 0, 1, rows.num_rows, 2.0)
        self.context.tables.append(table)
        return table


def context(folder: Path, **more) -> RunContext:
    recipe = {"backbone": "test_byobnet", "image_size": 32, "epochs": 2, "batch_size": 16, "lr": 0.1}
    config = build(
        {
            "ingest": {"source": {"kind": "field_guide", "train_per_class": 2, "test_per_class": 1}},
            "makd": {**recipe, "schedule": "cosine", "workers": {"num_cpus": 1}, **more},
            "infer": {"split": "test", "workers": {"rows_per_part": 20}},
            "run": {"max_error_share": 0.05},
            "tracking": {"log_models": False},
        }
    )
    return RunContext(config, str(folder / "run"), NoTracking())


@pytest.fixture(scope="module")
def trained(tmp_path_factory, ray_session_of_two):
    """Samples with one damaged training image, both students, and the predictions of the one with aspects."""
    folder = tmp_path_factory.mktemp("makd")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FGVR_CACHE", str(folder / "cache"))
        flow = Guide(context(folder))
        rows = flow.table("samples").read().to_pylist()
        broken = [row for row in rows if row["split"] == "train"][5]
        Path(broken["uri"]).write_bytes(b"\xff\xd8\xff damaged")
        return flow, flow.table("base"), flow.table("makd"), flow.table("predictions"), broken["image_id"]


def test_rows_are_the_training_images_with_what_was_learned_of_each(trained):
    flow, base, student, _, broken = trained
    for table in (base, student):
        rows = table.read()
        assert rows.schema.equals(schemas.STUDENT_TARGETS)
        assert (table.rows, table.failed) == (72, 1)
        samples = {row["image_id"]: row for row in flow.table("samples").read().to_pylist()}
        labels = json.loads(Path(table.path("model", "model.json")).read_text())["labels"]
        for row in rows.to_pylist():
            if row["image_id"] == broken:
                assert row["label_id"] is None
                assert row["error"]["reason"] in {"corrupt", "not_an_image"}
            else:
                assert labels[row["label_id"]] == samples[row["image_id"]]["class_name"]
        assert table.extra["class_targets"] == "true"
        assert table.extra["images"] == 71
        assert table.extra["held_out"] == pytest.approx(7, abs=1)
        assert len(json.loads(Path(table.path("history.json")).read_text())) == 2
    asked = {row["image_id"]: row["aspects"] for row in student.read().to_pylist()}
    assert asked == {image_id: image_id != 40 for image_id in asked}
    assert not any(base.read()["aspects"].to_pylist())
    assert (base.extra["questions"], student.extra["questions"]) == (0, len(QUESTIONS))


def test_predictions_are_those_of_the_model_in_the_folder(trained):
    flow, _, student, predictions, _ = trained
    classifier = load_classifier(Path(student.path("model")))
    assert classifier.questions == [question.text for question in QUESTIONS]
    rows = predictions.read().to_pylist()
    samples = {row["image_id"]: row for row in flow.table("samples").read().to_pylist()}
    assert [row["image_id"] for row in rows] == [n for n, row in samples.items() if row["split"] == "test"]
    images = [Image.open(samples[row["image_id"]]["uri"]) for row in rows]
    scores = classifier.scores(images)
    np.testing.assert_allclose([row["score"] for row in rows], scores.max(1), atol=1e-5)
    np.testing.assert_allclose([row["p_yes"] for row in rows], classifier.aspects(images), atol=1e-5)
    assert predictions.parts == 2


def test_the_report_compares_the_student_with_the_answers_it_learned(trained):
    flow, base, student, _, broken = trained
    assert report_aspects.has_aspects(flow)
    images = report_aspects.aspect_sample(flow)
    rows = student.read().to_pylist()
    learned = [row for row in rows if row["aspects"] and row["label_id"] is not None]
    assert images.ids.tolist() == [row["image_id"] for row in learned]  # neither the unasked nor the broken one
    assert broken not in images.ids
    assert 40 not in images.ids
    facts, pictures = report_aspects.aspect_report(flow, with_base=True)
    assert (facts.images, facts.classes, facts.class_targets) == (70, 36, "true")
    held = [row["image_id"] for row in learned if row["held_out"]]
    assert (facts.compared, facts.held_out) == (len(held), True)
    samples = {row["image_id"]: row for row in flow.table("samples").read().to_pylist()}
    truth = {i: truths(SPECIES[samples[i]["class_id"]].attributes) for i in images.ids.tolist()}
    for line in facts.questions:
        answers = np.array([truth[i][line.rank - 1] for i in images.ids.tolist()])
        assert line.mean == pytest.approx(answers.mean())
        classes = [row["label_id"] for row in learned]
        assert line.bits == pytest.approx(mutual_info_score(classes, answers) / np.log(2), abs=1e-6)
    classifier = load_classifier(Path(student.path("model")))
    outputs = classifier.aspects([Image.open(samples[i]["uri"]) for i in held])
    answers = np.array([truth[i] for i in held])
    same = ((outputs >= 0.5) == answers).mean(axis=0)
    np.testing.assert_allclose([line.same for line in facts.questions], [same[q.rank - 1] for q in facts.questions])
    assert len(pictures.cards) == min(6, len(held))
    assert all(card.thumbnail for card in pictures.cards)
    assert (pictures.images, pictures.held_out) == (70, len(held))
    # One linear layer: a weight an output and feature, and a bias.
    features = (facts.overhead.parameters - facts.overhead.parameters_without) / len(QUESTIONS) - 1
    assert features == load_student(Path(base.path("model")))[1].num_features
    assert facts.overhead.seconds_per_answer == pytest.approx(2 / (flow.table("aspects").rows * len(QUESTIONS)))


def test_a_student_without_aspects_has_no_aspects_in_its_report(trained):
    flow, base, _, _, _ = trained

    assert not report_aspects.has_aspects(Run(flow.context, {"makd": base, "samples": flow.table("samples")}))


def test_running_again_finds_what_is_there(trained):
    flow, base, student, predictions, _ = trained
    again = Guide(flow.context)
    assert (again.table("base"), again.table("makd"), again.table("predictions")) == (base, student, predictions)


def test_a_training_whose_stage_was_killed_after_it_is_not_repeated(trained):
    flow, base, _, _, _ = trained
    before = Path(base.path("model", "model.safetensors")).read_bytes()
    Path(base.path("manifest.json")).unlink()
    again = Guide(flow.context).table("base")
    assert Path(again.path("model", "model.safetensors")).read_bytes() == before
    assert again.seconds < base.seconds + 60


def test_a_model_given_by_its_folder_is_used(trained):
    flow, base, _, _, _ = trained
    config = flow.context.config.model_copy(
        update={"infer": flow.context.config.infer.model_copy(update={"model": base.path("model")})}
    )
    predictions = Run(RunContext(config, flow.context.folder, flow.context.tracker)).table("predictions")
    assert predictions.rows == 36
    assert all(p_yes is None for p_yes in predictions.read()["p_yes"].to_pylist())


def test_a_fraction_is_another_student_and_no_other_question_is_asked(trained, tmp_path):
    flow, _, student, _, _ = trained
    fewer = changed(flow, tmp_path, fraction=0.5)
    half = assembled(fewer, student_task(fewer, fewer.config.makd)).examples
    assert len(half) == 36  # of 72, one of two a species
    assert set(half.image_ids.tolist()) < set(student.read()["image_id"].to_pylist())
    whole, part = (stage_of("makd").recipe(each) for each in (flow, fewer))
    assert part == {**whole, "recipe": {**whole["recipe"], "fraction": 0.5}} != whole
    asked, asked_then = (stage_of("aspects").recipe(each) for each in (flow, fewer))
    assert asked == asked_then


def changed(flow: Guide, folder: Path, **settings) -> Guide:
    """The same samples and run, another recipe; in a folder of its own if one is given."""
    made = context(folder, **settings)
    made.folder = flow.context.folder
    return Guide(made)


def test_a_student_is_taught_by_an_earlier_one(trained, tmp_path):
    flow, base, _, _, _ = trained
    teaching = {"kind": "kd", "teacher": base.uri}
    pupil = changed(flow, tmp_path, distillation=teaching).table("base")
    assert pupil.uri != base.uri
    history = json.loads(Path(pupil.path("history.json")).read_text())
    assert all(epoch["distillation_loss"] > 0 for epoch in history)
    plain = json.loads(Path(base.path("history.json")).read_text())
    assert all("distillation_loss" not in epoch for epoch in plain)
    weights = Path(base.path("model", "model.safetensors")).read_bytes()
    assert Path(pupil.path("teacher", "model.safetensors")).read_bytes() == weights
    # A copy elsewhere is the same teacher; another student is another.
    shutil.copytree(base.path("model"), tmp_path / "copy")
    again = changed(flow, tmp_path, distillation={**teaching, "teacher": str(tmp_path / "copy")}).table("base")
    assert again == pupil
    # The same by aspects, which the base student does not learn.
    assert changed(flow, tmp_path, distillation=teaching, aspect_loss="kl", alpha=9).table("base") == pupil


def test_a_student_starts_from_an_earlier_one_and_says_what_it_took(trained, tmp_path, caplog):
    flow, base, student, _, _ = trained
    with caplog.at_level("INFO"):
        options = {"weights": base.uri, "optimizer": "adamw", "lr": 0.001, "freeze_epochs": 1, "ema": 60}
        again = changed(flow, tmp_path, **options).table("makd")
    assert again.uri not in {base.uri, student.uri}
    sentence = again.extra["weights"]
    assert "100 of the student's 102 tensors start from it" in sentence
    assert f"is new, for 36 classes and {len(QUESTIONS)} aspects; theirs has 36 outputs" in sentence
    assert f"makd: {sentence}" in caplog.messages
    assert not any("half of the average" in message for message in caplog.messages)  # 60 of 128 images
    assert "weights" not in base.extra


def test_random_aspects_are_not_asked_for(trained, tmp_path):
    flow = trained[0]

    class Unasked(Guide):
        def given_aspects(self) -> Table:
            raise AssertionError("the MLLM was asked")

    made = Unasked(changed(flow, tmp_path, aspect_targets="random", seed=3).context)
    task = student_task(made, made.context.config.makd)
    assert list(student_tables(made, made.config.makd)) == ["samples", "questions"]
    examples = assembled(made, task).examples
    np.testing.assert_array_equal(examples.p_yes, random_p_yes(examples.image_ids, len(QUESTIONS), 3))


def test_configs_that_cannot_work_are_refused_by_name(tmp_path, trained):
    flow = trained[0]

    def compute(wrong):
        check_tables(wrong.config, ["base"])
        Guide(wrong).table("base")

    for change, message in [
        ({"split": "test"}, r"makd\.split = test.*evaluate\.split"),
        ({"split": "nowhere"}, r"makd\.split = nowhere, about whose images no question would be asked"),
        ({"backbone": "resnet19"}, "did you mean"),
        ({"distillation": {"kind": "dkd", "teacher": "/nothing"}}, r"distillation\.teacher = /nothing: neither it"),
    ]:
        wrong = context(tmp_path, **change)
        wrong.folder = flow.context.folder
        with pytest.raises(ValueError, match=message):
            compute(wrong)
    with pytest.raises(ConfigError, match=r"infer\.split = x: no image .*train"):
        infer.image_ids(flow.table("samples"), "x")
    with pytest.raises(ConfigError, match=r"infer\.model = /nothing: it has no model\.json"):
        infer.identity_of("/nothing")
