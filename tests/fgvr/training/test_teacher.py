import io
import math
import tracemalloc

import numpy as np
import pytest
import torch
from torch import nn

from fgvr.config import ConfigError, Dkd, Kd
from fgvr.losses.kd import dkd_loss, kd_loss, standardised
from fgvr.models.student import Preprocess, StudentClassifier, StudentSpec, build_student, save_student, timm_preprocess
from fgvr.schemas import Failure, Reason
from fgvr.training.batches import Batch
from fgvr.training.student_terms import DistillationTerm, StudentStep
from fgvr.training.teacher import ScoreTeacher, StudentTeacher, class_order, open_teacher, put_scores

CPU = torch.device("cpu")


def spec(labels=("a", "b", "c"), side=16, questions=()) -> StudentSpec:
    return StudentSpec("test_vit", labels, questions, timm_preprocess("test_vit", side))


def crops(count=5, side=16, seed=0) -> torch.Tensor:
    return torch.randint(
        0, 256, (count, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def test_classes_are_matched_by_name():
    assert class_order(("a", "b", "c"), ("c", "a", "b")).tolist() == [2, 0, 1]
    assert class_order(("a", "a"), ("a", "a")).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("teacher", "student", "message"),
    [
        (
            ("a", "b"),
            ("a", "z"),
            r"1 of the student's classes that it does not know \('z'\); 1 of its classes.*\('b'\)",
        ),
        (("a", "b", "c"), ("a", "b"), r"it has 3 classes, the student 2, and they differ: 1 of its classes.*'c'"),
        (("a",), tuple("abcdefg"), r"6 of the student's classes.*'b', 'c', 'd', 'e', 'f' …\)"),
        (("a", "b", "a"), ("a", "a", "b"), "a name stands for several classes"),
    ],
)
def test_other_classes_are_named(teacher, student, message):
    with pytest.raises(ConfigError, match=message):
        class_order(teacher, student)


def test_a_student_teaches_its_own_logits_in_the_order_of_the_pupil(tmp_path):
    # Its aspect outputs are no class logits; mean and deviation are its own.
    own = spec(questions=("Is it red?",))
    torch.manual_seed(1)
    save_student(tmp_path / "m", own, build_student(own).state_dict(), {})
    teacher = open_teacher(str(tmp_path / "m"), ("c", "a", "b"), 7, CPU)
    assert teacher.known.tolist() == [True] * 7
    pixels = crops()
    logits = teacher.logits(pixels, np.arange(5))
    expected = StudentClassifier.load(tmp_path / "m").predict(pixels).scores  # softmax by inference's own code
    np.testing.assert_allclose(logits.softmax(1).numpy(), expected[:, [2, 0, 1]], rtol=1e-5)
    assert not logits.requires_grad
    assert isinstance(teacher, StudentTeacher)
    assert not teacher.model.training


def test_a_teacher_computes_in_the_precision_of_its_pupil():
    class Sees(nn.Linear):
        def forward(self, inputs):
            self.made = super().forward(inputs.mean(dim=(2, 3)))
            return self.made

    model, labels = Sees(3, 2), ("a", "b")
    for low, made in ((True, torch.bfloat16), (False, torch.float32)):
        teacher = StudentTeacher(spec(labels), model, labels, 5, low_precision=low)
        assert teacher.logits(crops(), np.arange(5)).dtype == torch.float32
        assert model.made.dtype == made


def test_crops_of_another_size_are_resized_for_the_teacher():
    class Sees(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))
            self.seen = torch.zeros(0)

        def forward(self, inputs):
            self.seen = inputs
            return inputs.mean(dim=(2, 3)) * self.scale

    model = Sees()
    sizes = Preprocess(input_size=8, resize=8, stored_side=12, mean=(0.0,) * 3, std=(1.0,) * 3)
    teacher = StudentTeacher(StudentSpec("x", ("a", "b", "c"), (), sizes), model, ("a", "b", "c"), 1)
    flat = torch.full((1, 16, 16, 3), 51, dtype=torch.uint8)
    flat[..., 1] = 255
    assert teacher.logits(flat, np.arange(1))[0].tolist() == pytest.approx([0.2, 1.0, 0.2])
    assert model.seen.shape == (1, 3, 8, 8)
    # A left half of 0 and a right half of 255 stay where they are.
    halves = torch.zeros((1, 16, 16, 3), dtype=torch.uint8)
    halves[:, :, 8:] = 255
    teacher.logits(halves, np.arange(1))
    assert (model.seen[0, 0, :, :3] < 0.01).all()
    assert (model.seen[0, 0, :, 5:] > 0.99).all()


def test_scores_are_given_by_position_and_unknown_ones_never(tmp_path):
    scores = np.array([[1, 2], [math.nan, math.nan], [5, 6], [-math.inf, 0]], dtype=np.float32)
    put_scores(str(tmp_path), [scores[:1], scores[1:1], scores[1:]], 4, 2)
    teacher = open_teacher(str(tmp_path), ("a", "b"), 4, CPU)
    assert isinstance(teacher, ScoreTeacher)
    assert teacher.known.tolist() == [True, False, True, False]
    assert teacher.logits(crops(2), np.array([2, 0])).tolist() == [[5, 6], [1, 2]]
    assert teacher.logits(crops(1), np.array([1])).isfinite().all()
    with pytest.raises(ValueError, match=r"\(4, 2\) do not fit 3 examples"):
        open_teacher(str(tmp_path), ("a", "b"), 3, CPU)


def test_the_file_is_what_numpy_writes_whatever_the_blocks(tmp_path):
    scores = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    whole = io.BytesIO()
    np.save(whole, scores)
    for name, cuts in {"one": [], "several": [1, 1, 4]}.items():
        put_scores(str(tmp_path / name), np.split(scores, cuts), 5, 3)
        assert (tmp_path / name / "scores.npy").read_bytes() == whole.getvalue()


@pytest.mark.parametrize(("examples", "classes", "message"), [(6, 3, "of 5 images, not of 6"), (5, 4, "not of 4 clas")])
def test_blocks_that_do_not_fit_leave_no_file(tmp_path, examples, classes, message):
    with pytest.raises(ValueError, match=message):
        put_scores(str(tmp_path), [np.zeros((5, 3), np.float32)], examples, classes)
    assert list(tmp_path.iterdir()) == []


def test_memory_is_that_of_a_block_and_a_batch(tmp_path, monkeypatch):
    images, classes, rows = 100_000, 200, 1000  # 80 MB of scores
    monkeypatch.setattr("fgvr.training.teacher.BLOCK_BYTES", 2**20)
    numbers = np.arange(images, dtype=np.float32)
    tracemalloc.start()
    ramp = np.arange(classes, dtype=np.float32)
    put_scores(str(tmp_path), (numbers[n : n + rows, None] + ramp for n in range(0, images, rows)), images, classes)
    teacher = open_teacher(str(tmp_path), tuple(str(n) for n in range(classes)), images, CPU)
    logits = teacher.logits(crops(3), np.array([99_999, 0, 50_000]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert logits[:, 7].tolist() == [100_006, 7, 50_007]
    assert teacher.known.all()
    assert peak < 4e6


def step(positions, readable=None) -> Batch:
    positions = np.array(positions)
    lost = [] if readable is None else positions[~np.array(readable)].tolist()
    failures = dict.fromkeys(lost, Failure(Reason.NOT_FOUND, "gone"))
    return Batch((crops(len(positions)),), positions, positions, failures)


SCORES = np.array([[3, 1, 0], [math.nan] * 3, [0, 2, 4], [1, 1, 0]], dtype=np.float32)
CLASSES = np.array([0, 1, 2, -1])


def distilled(settings, batch, logits) -> tuple[float, float, int]:
    classes = torch.from_numpy(np.where(batch.readable, CLASSES[batch.positions], -1))
    seen = StudentStep(0, batch, batch.views, (logits,), (), classes, torch.zeros(len(classes), 0))
    term = DistillationTerm(settings, ScoreTeacher(SCORES, CPU), CLASSES)(seen)
    return term.total.item(), term.seen.item(), term.count


def test_unknown_and_unreadable_images_are_left_out():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(3))
    settings = Kd(teacher="mllm", temperature=3)
    expected = 3 * kd_loss(logits[[0, 2, 3]], torch.tensor(SCORES)[[0, 2, 3]], 3).item()
    assert distilled(settings, step([0, 1, 2, 3]), logits) == (pytest.approx(expected, rel=1e-5), 3, 3)
    first = kd_loss(logits[:1], torch.tensor(SCORES)[:1], 3).item()
    batch = step([0, 1, 2, 3], [True, True, False, False])
    assert distilled(settings, batch, logits) == (pytest.approx(first, rel=1e-5), 1, 3)


def test_dkd_needs_a_class_and_weighs_its_two_parts():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(3))
    settings = Dkd(teacher="mllm", temperature=2, alpha=0.5, beta=3)
    known = torch.tensor(SCORES)[[0, 2]]
    expected = 2 * dkd_loss(logits[[0, 2]], known, torch.tensor([0, 2]), 0.5, 3, 2).item()
    assert distilled(settings, step([0, 1, 2, 3]), logits) == (pytest.approx(expected, rel=1e-5), 2, 2)


def test_standardised_on_both_sides():
    logits = torch.randn(1, 3, generator=torch.Generator().manual_seed(3))
    settings = Kd(teacher="mllm", temperature=2, standardise=True)
    expected = kd_loss(standardised(logits), standardised(torch.tensor(SCORES[:1])), 2).item()
    assert distilled(settings, step([0]), logits)[0] == pytest.approx(expected, rel=1e-5)
    assert distilled(settings, step([0]), 9 * logits - 4)[0] == pytest.approx(expected, rel=1e-4)


def test_the_weight_rises_over_the_warm_up():
    teacher = ScoreTeacher(SCORES, CPU)
    rising = DistillationTerm(Dkd(teacher="mllm", weight=2, warmup_epochs=4), teacher, CLASSES)
    assert [rising.weight(epoch) for epoch in range(6)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert DistillationTerm(Kd(teacher="mllm"), teacher, CLASSES).weight(0) == 0.9
