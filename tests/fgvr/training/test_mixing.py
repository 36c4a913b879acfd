"""Mixup and CutMix: pixels and targets as timm mixes them, pairs across workers, and what is unreadable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from fgvr.training.batches import Batch
from fgvr.training.mixing import Mix, Mixing, cut
from fgvr.training.reporter import LocalReporter
from fgvr.training.student import StudentTrainer
from tests.fgvr.training.coloured_photos import job


def photos(count: int, side: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize("share", [0.0, 0.21, 0.5, 0.9, 1.0])
def test_blends_as_timm(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    images = photos(6, 9)
    monkeypatch.setattr("numpy.random.beta", lambda *_: share)
    theirs, target = Mixup(mixup_alpha=0.3, label_smoothing=0, num_classes=6)(
        torch.from_numpy(images).permute(0, 3, 1, 2).float(), torch.arange(6)
    )
    mine = Mix(share).mixed(images, images[::-1])
    np.testing.assert_allclose(mine, theirs.permute(0, 2, 3, 1), atol=0.5 + 1e-4)
    np.testing.assert_allclose(target.diagonal(), [share] * 6, atol=1e-6)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (4, 4), (8, 1), (5, 8)])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.62, 0.999])
def test_cuts_as_timm(share: float, row: int, column: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = photos(4, 9)
    places: Iterator[int] = iter((row, column))
    monkeypatch.setattr("numpy.random.beta", lambda *_: share)
    monkeypatch.setattr("numpy.random.randint", lambda *_, **__: next(places))
    theirs, target = Mixup(mixup_alpha=0, cutmix_alpha=1, label_smoothing=0, num_classes=4)(
        torch.from_numpy(images).permute(0, 3, 1, 2).float(), torch.arange(4)
    )
    mix = cut(share, 9, row, column)
    np.testing.assert_array_equal(mix.mixed(images, images[::-1]), theirs.permute(0, 2, 3, 1))
    assert mix.share == pytest.approx(target[0, 0].item(), abs=1e-6)


def test_draws_are_those_of_a_beta_distribution_and_of_both_kinds() -> None:
    random = np.random.default_rng(0)
    both = [Mixing(0.4, 1.0).draw(random, 64) for _ in range(4000)]
    boxed = [mix for mix in both if mix.box is not None]
    assert len(boxed) / len(both) == pytest.approx(0.5, abs=0.03)
    blended = np.array([mix.share for mix in both if mix.box is None])
    assert blended.mean() == pytest.approx(0.5, abs=0.03)
    assert blended.var() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), rel=0.05)  # of Beta(α, α)
    for mix in boxed:
        top, bottom, left, right = mix.box or (0, 0, 0, 0)
        assert mix.share == 1 - (bottom - top) * (right - left) / 64**2
    assert all(mix.box is None for mix in (Mixing(0.4, 0).draw(random, 64) for _ in range(50)))
    assert all(mix.box is not None for mix in (Mixing(0, 1).draw(random, 64) for _ in range(50)))


def trainer(folder: Path, **settings) -> StudentTrainer:
    task = job(folder, count=26, epochs=1, batch_size=8, **settings)
    return StudentTrainer(task, LocalReporter(folder / "run"))


@pytest.mark.parametrize("settings", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_a_step_is_the_plain_one_mixed(tmp_path: Path, settings: dict[str, float]) -> None:
    plain, mixed = trainer(tmp_path / "a"), trainer(tmp_path / "b", **settings)
    for one, other in zip(plain.batches(0), mixed.batches(0), strict=True):
        assert other.partners is not None
        np.testing.assert_array_equal(other.positions, one.positions)
        np.testing.assert_array_equal(other.partners, one.positions[::-1])
        images, result = one.pixels.numpy().astype(float), other.pixels.numpy()
        if np.allclose(result, other.share * images + (1 - other.share) * images[::-1], atol=0.51):
            continue
        assert "cutmix" in settings
        own = (result == images).all(axis=(0, 3))
        assert own.mean() == pytest.approx(other.share, abs=1e-6) or own.mean() > other.share  # equal pixels by chance
        assert ((result == images) | (result == images[::-1])).all()


def test_the_losses_are_those_of_timms_mixed_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student = trainer(tmp_path, mixup=0.4, label_smoothing=0.1, alpha=3)
    for batch in student.batches(0):
        step = student._step(batch)
        count = len(batch.positions)
        classes = torch.from_numpy(student.examples.classes[batch.positions])
        monkeypatch.setattr("numpy.random.beta", lambda *_, share=batch.share: share)
        if count % 2 == 0:  # timm takes even batches only
            _, target = Mixup(mixup_alpha=1, label_smoothing=0.1, num_classes=4)(torch.zeros(count, 3, 2, 2), classes)
            expected = SoftTargetCrossEntropy()(step.class_logits[0], target)
            assert student.terms[0](step).learned().item() == pytest.approx(expected.item(), rel=1e-5)
        # Aspects: binary cross entropy with the mixed p(yes), where both are known.
        p_yes = step.p_yes.double()
        mean = batch.share * p_yes + (1 - batch.share) * p_yes.flip(0)
        known, logits = ~mean.isnan(), step.aspect_logits[0].double()
        rows = F.binary_cross_entropy_with_logits(logits, mean.nan_to_num(0.5), reduction="none")
        if bool(known.all()):
            assert student.terms[1](step).learned().item() == pytest.approx(3 * rows.mean().item(), rel=1e-5)


def test_several_workers_make_the_same_pairs(tmp_path: Path) -> None:
    student = trainer(tmp_path, mixup=0.4, cutmix=1.0, randaugment=2)
    loader, positions = student.data.loader, student.data.training

    def steps(rank: int, world_size: int) -> list[Batch]:
        return list(replace(loader, rank=rank, world_size=world_size, views=2).training(positions, 9, 3, 2))

    for whole, *shares in zip(steps(0, 1), *(steps(rank, 3) for rank in range(3)), strict=True):
        assert whole.partners is not None
        for rank, share in enumerate(shares):
            assert share.share == whole.share
            np.testing.assert_array_equal(share.partners, whole.partners[rank::3])
            for view, part in zip(whole.views, share.views, strict=True):
                assert torch.equal(view[rank::3], part)


def test_a_partner_that_cannot_be_read_is_black_and_teaches_nothing(tmp_path: Path) -> None:
    student = trainer(tmp_path, mixup=0.4, cache_gb=1e-9)
    Path(student.examples.uris[5]).unlink()
    for batch in student.batches(0):
        step = student._step(batch)
        assert step.partners is not None
        assert batch.partners is not None
        lost, beside = batch.positions == 5, batch.partners == 5
        assert batch.readable.tolist() == (~lost).tolist()
        assert step.classes[torch.from_numpy(lost)].tolist() == [-1] * lost.sum()
        assert step.partners.classes[torch.from_numpy(beside)].tolist() == [-1] * beside.sum()
        assert bool(step.partners.p_yes[torch.from_numpy(beside)].isnan().all())
        if lost.any():
            assert set(batch.failures) == {5}
            own = student.data.loader.store[int(batch.positions[beside][0])]
            assert batch.pixels[torch.from_numpy(beside)].max() <= round(batch.share * int(own.max()) + 1)
