"""Students that learn signatures: the term by hand, two workers, mixed and semi-supervised steps, and a training."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from fgvr.array_files import save_array
from fgvr.mllm.choices import ChoiceQuestion
from fgvr.models.infer import load_classifier
from fgvr.models.student import build_student, load_student, save_student
from fgvr.training.batches import Batch
from fgvr.training.examples import Examples, SoftClasses
from fgvr.training.reporter import LocalReporter
from fgvr.training.semi import SemiTrainer, train_semi
from fgvr.training.student import StudentTrainer, train_student
from fgvr.training.student_data import StudentJob
from fgvr.training.student_terms import SignatureTerm, StudentStep
from tests.fgvr.training.coloured_photos import job, photos

CLASSES = np.array([0, 1, -1, 2, 0])
SIGNATURES = torch.tensor([[0.25, 0.75], [torch.nan, torch.nan], [1.0, 0.0]])  # that of class 1 failed
LOGITS = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [2.0, 0.0]])
COUNTS = np.array([1.0, 0.5, 1.0, 4.0, 2.0], np.float32)

COLOUR = ChoiceQuestion("Which colour?", ("red", "blue"))
SHADE = ChoiceQuestion("Which shade?", ("light", "middle", "dark"))
OF_CLASSES = np.array(
    [[0.9, 0.1, 0.0, 0.1, 0.9], [0.9, 0.1, 0.9, 0.1, 0.0], [0.1, 0.9, 0.0, 0.1, 0.9], [np.nan] * 5], np.float32
)
"""Dark red, light red, dark blue; on light blue the model failed."""


def step(positions: list[int], whole: list[int] | None = None) -> StudentStep:
    places = np.array(positions)
    batch = Batch((), places, np.array(positions if whole is None else whole), {})
    nothing, classes = torch.zeros(len(places), 0), torch.from_numpy(CLASSES[places])
    return StudentStep(0, batch, (), (nothing,), (nothing,), classes, nothing, choice_logits=(LOGITS[places],))


def term(**more: Any) -> SignatureTerm:
    uris = [str(number) for number in range(5)]
    p_yes = np.zeros((5, 0), np.float32)
    examples = Examples(np.arange(5), uris, CLASSES, p_yes, np.zeros(5, bool), "v1", **more)
    return SignatureTerm(examples, SIGNATURES, [2], 3.0)


def divergence(target: list[float], row: int) -> float:
    return float(functional.kl_div(LOGITS[row].log_softmax(0), torch.tensor(target), reduction="sum"))


def test_images_with_a_class_count_and_those_without_a_signature_add_nothing() -> None:
    found = term()(step([0, 1, 2, 3, 4]))
    rows = [divergence([0.25, 0.75], 0), np.log(2), divergence([0.25, 0.75], 4)]
    assert found.count == 4  # not image 2, which has no class
    assert float(found.learned()) == pytest.approx(3 * sum(rows) / 4, rel=1e-5)
    assert float(found.total / found.seen) == pytest.approx(sum(rows) / 3, rel=1e-5)  # reported: of those that learn
    assert term().name == "signature_loss"


def test_they_count_as_in_the_class_loss() -> None:
    found = term(weights=COUNTS)(step([0, 1, 2, 3, 4]))
    expected = divergence([0.25, 0.75], 0) + 4 * np.log(2) + 2 * divergence([0.25, 0.75], 4)
    assert float(found.learned()) == pytest.approx(3 * expected / 7.5, rel=1e-5)
    assert found.seen == 7


def test_of_several_names_the_signatures_are_mixed() -> None:
    ids = np.array([[0, 2], [1, 2], [-1, -1], [2, -1], [0, 1]], np.int32)
    shares = np.array([[0.5, 0.5], [0.75, 0.25], [0, 0], [1, 0], [0.5, 0.5]], np.float16)
    found = term(soft=SoftClasses(ids, shares))(step([0, 1, 2, 3, 4]))
    # Class 1 has no signature: images 1 and 4 learn that of their other name.
    rows = [divergence([0.625, 0.375], 0), divergence([1.0, 0.0], 1), np.log(2), divergence([0.25, 0.75], 4)]
    assert float(found.learned()) == pytest.approx(3 * sum(rows) / 4, rel=1e-5)


def test_two_workers_learn_what_one_would() -> None:
    whole = [0, 1, 2, 3, 4]
    parts = [term(weights=COUNTS)(step(own, whole)).learned() for own in ([0, 2, 4], [1, 3])]
    assert float(sum(parts)) == pytest.approx(float(term(weights=COUNTS)(step(whole)).learned()))


def signed(tmp_path: Path, task: StudentJob) -> StudentJob:
    """The job with the signatures of its four classes."""
    save_array(str(tmp_path / "signatures.npy"), OF_CLASSES)
    spec = replace(task.spec, choices=(COLOUR, SHADE))
    return replace(task, spec=spec, signatures=str(tmp_path / "signatures.npy"))


@pytest.mark.slow
def test_a_student_learns_classes_aspects_and_signatures(tmp_path: Path) -> None:
    task = signed(tmp_path, job(tmp_path, 64, backbone="test_byobnet", epochs=8, lr=0.05, signature_weight=1))
    reporter = LocalReporter(tmp_path / "run")
    train_student(task, reporter)
    history = reporter.history
    assert history[-1]["signature_loss"] < 0.3 * history[0]["signature_loss"]
    uris, classes = photos(tmp_path / "fresh", 40, seed=1)
    images = [Image.open(uri) for uri in uris]
    student = load_classifier(reporter.checkpoint / "last")
    assert (student.scores(images).argmax(1) == classes).mean() >= 0.9
    p_yes = student.aspects(images)
    assert p_yes is not None
    assert p_yes.shape == (40, 2)  # as without signatures
    # What it says about the choice questions, of classes that have a signature:
    spec, model = load_student(reporter.checkpoint / "last")
    assert spec.choices == (COLOUR, SHADE)
    pixels = torch.stack([torch.from_numpy(spec.preprocess.prepare(image)) for image in images])
    with torch.no_grad():
        outputs = spec.choice_logits(model(spec.preprocess.normalise(pixels)))
    for part, start in zip(outputs.split([2, 3], dim=1), (0, 2), strict=True):
        wanted = OF_CLASSES[classes][:, start : start + part.shape[1]].argmax(1)
        known = classes != 3
        assert (part.argmax(1).numpy() == wanted)[known].mean() >= 0.9


def test_mixed_images_learn_the_mixed_signature(tmp_path: Path) -> None:
    task = signed(tmp_path, job(tmp_path, 24, epochs=1, mixup=0.4, signature_weight=2, alpha=0, questions=()))
    trainer = StudentTrainer(task, LocalReporter(tmp_path / "run"))
    found = next(each for each in trainer.terms if each.name == "signature_loss")
    for batch in trainer.batches(0):
        made = trainer._step(batch)
        assert made.partners is not None
        own, other = (OF_CLASSES[each.classes.numpy()] for each in (made, made.partners))
        known = ~np.isnan(own).any(1) & ~np.isnan(other).any(1)
        mixed = made.share * np.nan_to_num(own) + (1 - made.share) * np.nan_to_num(other)
        # A cross entropy is linear in its target: gradients of the mixed signature, whatever its entropy is.
        (gradient,) = torch.autograd.grad(found(made).learned(), made.choice_logits[0])
        logits = made.choice_logits[0].detach()
        q = torch.cat([part.softmax(1) for part in logits.split([2, 3], dim=1)], dim=1).numpy()
        expected = 2 * (q - mixed) / 2 / len(logits)  # of the mean of two questions, with a weight of 2
        np.testing.assert_allclose(gradient.numpy()[known], expected[known], atol=1e-6)


def test_semi_supervised_steps_learn_it_from_photos_with_a_trusted_name(tmp_path: Path) -> None:
    semi = {"ratio": 2, "threshold": 0.5}
    task = signed(
        tmp_path, job(tmp_path, trainer="semi", semi=semi, epochs=1, signature_weight=1, questions=(), alpha=0)
    )
    examples = Examples.read(task.examples)
    classes = np.where(np.arange(len(examples)) < 12, examples.classes, -1)
    replace(examples, classes=classes).write(str(tmp_path / "partly"))
    trainer = SemiTrainer(replace(task, examples=str(tmp_path / "partly")), LocalReporter(tmp_path / "run"))
    found = next(each for each in trainer.terms if each.name == "signature_loss")
    batch = next(trainer.batches(0))
    made = trainer._step(batch)
    assert made.choice_logits[0].shape == (len(made.classes), 5)
    assert found(made).count == len(made.classes)
    assert found(made).seen == int((made.classes != 3).sum())
    train_semi(trainer.job, LocalReporter(tmp_path / "whole"))


def test_choice_questions_without_signatures_are_an_error(tmp_path: Path) -> None:
    task = replace(signed(tmp_path, job(tmp_path, epochs=1)), signatures=None)
    with pytest.raises(ValueError, match="without the signatures"):
        StudentTrainer(task, LocalReporter(tmp_path / "run"))


def test_a_model_folder_of_an_earlier_version_has_no_choices(tmp_path: Path) -> None:
    spec = signed(tmp_path, job(tmp_path)).spec
    earlier = replace(spec, choices=())
    save_student(tmp_path / "model", earlier, build_student(earlier).state_dict(), {})
    file = tmp_path / "model" / "model.json"
    assert '"choices": []' in file.read_text()
    file.write_text(file.read_text().replace('"choices": [],', ""))
    assert load_student(tmp_path / "model")[0].choices == ()
    outputs = torch.arange(11.0)[None]
    assert [part.tolist()[0] for part in (*spec.split(outputs), spec.choice_logits(outputs))] == [
        [0, 1, 2, 3],
        [4, 5],
        [6, 7, 8, 9, 10],
    ]
    outputs[0, :4] = torch.tensor([0, 9, 0, 0])
    assert spec.predicted(outputs).tolist() == [1]  # whatever the other outputs say
