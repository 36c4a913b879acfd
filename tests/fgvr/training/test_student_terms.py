"""Class targets that count differently, and aspects of which only some images were asked: by hand."""

import numpy as np
import pytest
import torch

from fgvr.config import Kd
from fgvr.losses.kd import kd_rows
from fgvr.losses.makd import makd_loss
from fgvr.training.batches import Batch
from fgvr.training.examples import Examples, SoftClasses
from fgvr.training.student_terms import AspectTerm, ClassTerm, DistillationTerm, RefinedClassTerm, StudentStep
from fgvr.training.teacher import ScoreTeacher

CLASSES = np.array([0, 1, -1, 1])
LOGITS = torch.tensor([[2.0, 0.0], [0.5, 1.0], [0.0, 0.0], [3.0, 0.0]])
COUNTS = np.array([1.0, 0.5, 1.0, 4.0], np.float32)
P_YES = np.array([[0.9, 0.2], [np.nan, np.nan], [0.4, np.nan], [np.nan, np.nan]], np.float32)
ASPECT_LOGITS = torch.tensor([[1.0, -1.0], [0.3, 0.2], [0.0, 2.0], [0.7, 0.1]])


def examples(**more: object) -> Examples:
    uris = [str(number) for number in range(4)]
    return Examples(np.arange(4), uris, CLASSES, P_YES, np.zeros(4, bool), "v1", **more)


def step(positions: list[int], whole: list[int] | None = None) -> StudentStep:
    places = np.array(positions)
    batch = Batch((), places, np.array(positions if whole is None else whole), {})
    return StudentStep(
        *(0, batch, (torch.zeros(len(places), 2, 2, 3),), (LOGITS[places],), (ASPECT_LOGITS[places],)),
        *(torch.from_numpy(CLASSES[places]), torch.from_numpy(P_YES[places])),
    )


def cross_entropy(row: int) -> float:
    return float(-LOGITS[row].log_softmax(0)[CLASSES[row]])


def test_images_count_by_their_weights() -> None:
    term = ClassTerm(examples(weights=COUNTS), 1.0)(step([0, 1, 2, 3]))
    expected = (cross_entropy(0) + 0.5 * cross_entropy(1) + 4 * cross_entropy(3)) / 5.5
    assert float(term.learned()) == pytest.approx(expected)
    assert float(term.total / term.seen) == pytest.approx(expected)  # what is reported


def test_two_workers_learn_the_same_weighted_mean() -> None:
    term = ClassTerm(examples(weights=COUNTS), 1.0)
    parts = [term(step(own, [0, 1, 2, 3])).learned() for own in ([0, 2], [1, 3])]
    assert float(sum(parts)) == pytest.approx(float(term(step([0, 1, 2, 3])).learned()))


def test_small_weights_are_a_mean_and_no_smaller_step() -> None:
    few = ClassTerm(examples(weights=COUNTS / 100), 1.0)(step([0, 1, 2, 3])).learned()
    assert float(few) == pytest.approx(float(ClassTerm(examples(weights=COUNTS), 1.0)(step([0, 1, 2, 3])).learned()))
    assert float(ClassTerm(examples(weights=COUNTS * 0), 1.0)(step([0, 1])).learned()) == 0


def test_probable_names_are_learned_by_their_probabilities() -> None:
    soft = SoftClasses(
        np.array([[0, 1], [1, -1], [-1, -1], [1, 0]], np.int32),
        np.array([[0.75, 0.25], [1, 0], [0, 0], [0.5, 0.5]], np.float16),
    )
    dense = torch.tensor([[0.75, 0.25], [0.0, 1.0], [0.5, 0.5]])
    rows = torch.nn.functional.cross_entropy(LOGITS[[0, 1, 3]], dense, reduction="none")
    assert float(ClassTerm(examples(soft=soft), 1.0)(step([0, 1, 2, 3])).learned()) == pytest.approx(float(rows.mean()))
    counts = torch.tensor([1, 0.5, 4])
    both = ClassTerm(examples(soft=soft, weights=COUNTS), 1.0)(step([0, 1, 2, 3])).learned()
    assert float(both) == pytest.approx(float((counts * rows).sum() / 5.5))


def test_refined_targets_count_by_their_weights_too() -> None:
    term = RefinedClassTerm(examples(weights=COUNTS), 1.0, refine_after=2)
    plain = ClassTerm(examples(weights=COUNTS), 1.0)
    assert float(term(step([0, 1, 2, 3])).learned()) == pytest.approx(float(plain(step([0, 1, 2, 3])).learned()))


def asked_alone() -> float:
    """Σ of the losses of the three answered cells."""
    cells = torch.from_numpy(~np.isnan(P_YES))
    losses = torch.nn.functional.binary_cross_entropy_with_logits(
        ASPECT_LOGITS, torch.from_numpy(np.nan_to_num(P_YES, nan=0.5)), reduction="none"
    )
    return float(losses[cells].sum())


def test_an_asked_image_weighs_the_same_at_any_coverage() -> None:
    # Four images with two questions each: images 1 and 3 were not asked about, one cell of image 2 has no answer.
    term = AspectTerm(examples(), "bce", 1.0, all_asked=False)(step([0, 1, 2, 3]))
    assert term.count == 2 + 2 + 1 + 2
    assert float(term.learned()) == pytest.approx(asked_alone() / 7)
    assert float(term.total / term.seen) == pytest.approx(asked_alone() / 3)  # what is reported: per answered cell


def test_where_all_were_asked_those_without_answers_failed_and_do_not_count() -> None:
    term = AspectTerm(examples(), "bce", 1.0)(step([0, 1, 2, 3]))
    assert term.count == 3
    known = ~np.isnan(P_YES)
    outputs = torch.cat([torch.zeros(4, 1), ASPECT_LOGITS], dim=1)
    paper = makd_loss(outputs, torch.full((4,), -1), torch.from_numpy(P_YES), 1.0, torch.from_numpy(known))
    assert float(term.learned()) == pytest.approx(float(paper))


def test_of_a_fully_asked_set_both_are_the_papers_mean() -> None:
    full = examples()
    full = Examples(full.image_ids, full.uris, CLASSES, np.nan_to_num(P_YES, nan=0.3), full.held_out, "v1")
    for kind in ("bce", "kl", "softmax_kl"):
        a, b = (AspectTerm(full, kind, 4.0, all_asked=asked)(step([0, 1, 2, 3])) for asked in (True, False))
        assert (a.count, float(a.learned())) == (b.count, float(b.learned()))


def test_a_teacher_of_few_images_teaches_each_as_much_as_one_of_all() -> None:
    scores = np.full((4, 2), np.nan, np.float32)
    scores[0] = [1.0, -1.0]
    teacher = ScoreTeacher(scores, torch.device("cpu"))
    settings = Kd(teacher="mllm", temperature=2)
    own = kd_rows(LOGITS[:1], torch.from_numpy(scores[:1]), 2)
    partly = DistillationTerm(settings, teacher, CLASSES, all_asked=False)(step([0, 1, 2, 3]))
    assert float(partly.learned()) == pytest.approx(settings.weight * float(own) / 4)
    failed = DistillationTerm(settings, teacher, CLASSES)(step([0, 1, 2, 3]))  # the others failed: they do not count
    assert float(failed.learned()) == pytest.approx(settings.weight * float(own))


def test_softmax_kl_counts_images() -> None:
    assert AspectTerm(examples(), "softmax_kl", 1.0, all_asked=False)(step([0, 1, 2, 3])).count == 4
