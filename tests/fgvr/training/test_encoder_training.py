"""Training a distilled encoder: what it learns, what must not change it, and what is refused."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from fgvr.config import TimmVectors
from fgvr.encoders.encoder import encode_images, load_encoder
from fgvr.losses.encoder import grid_distance, masked_distance, unit_distance
from fgvr.metrics.neighbour_agreement import neighbour_agreement
from fgvr.models.base import read_model_file
from fgvr.training.checkpoint import read_history, read_left_out
from fgvr.training.encoder import EncoderTrainer, train_encoder
from fgvr.training.encoder_data import EncoderJob
from fgvr.training.encoder_examples import EncoderTrainingError
from fgvr.training.reporter import LocalReporter
from tests.dying_reporter import DiesAfter, Killed
from tests.fgvr.training.distilled_photos import job, photos, teacher
from tests.two_processes import RankReporter, two_processes


def encoder(reporter: LocalReporter) -> TimmVectors:
    return TimmVectors(model=str(reporter.checkpoint / "last"))


def state(reporter: LocalReporter) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(reporter.checkpoint / "state.pt", weights_only=True)
    return found


def top_colours(uris: list[str]) -> np.ndarray:
    """Vectors of a teacher that looks at the upper half alone: its mean colour, in a space of 12 numbers."""
    colours = np.stack([np.asarray(Image.open(uri))[:18].mean(axis=(0, 1)) for uri in uris]) / 127.5 - 1
    turned = np.random.default_rng(3).normal(size=(3, 12))
    found = colours @ turned
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16)


@pytest.mark.slow
def test_vectors_of_what_it_learned_lie_as_the_teachers_do(tmp_path: Path) -> None:
    uris, fresh = photos(tmp_path / "photos", 160), photos(tmp_path / "fresh", 80, seed=1)
    settings: dict[str, Any] = {"epochs": 5, "backbone": "test_convnext", "min_crop": 0.9, "lr": 0.2}
    task = job(tmp_path, uris=uris, vectors=top_colours(uris), held=16, **settings)
    reporter = LocalReporter(tmp_path / "run")
    untrained = EncoderTrainer(task, LocalReporter(tmp_path / "no"))
    untrained._save(_empty(tmp_path / "untrained"))
    history = train_encoder(task, reporter)
    assert history[-1]["loss"] < history[0]["loss"] / 4
    assert history[-1]["held_out_cosine"] > 0.9
    expected = top_colours(fresh).astype(np.float32)
    images = [Image.open(uri) for uri in fresh]
    before = encode_images(load_encoder(TimmVectors(model=str(tmp_path / "untrained/last"))), images)
    after = encode_images(load_encoder(encoder(reporter)), images)
    assert after.shape == before.shape == (80, 12)  # the head maps into the teacher's space
    assert neighbour_agreement(after, expected) > neighbour_agreement(before, expected) + 0.2
    # So they query an index of the teacher's vectors: 1 in 80 by chance.
    cosines = after @ expected.T
    place = (cosines > np.diag(cosines)[:, None]).sum(axis=1)
    assert np.median(place) < 8


def _empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.slow
def test_a_network_also_teaches_its_maps(tmp_path: Path) -> None:
    # Another normalisation, a larger input (48 px: a grid of 2 × 2), channels of its own; the student's grid is 2 × 2.
    task = job(tmp_path, network=teacher(tmp_path / "teacher"), epochs=8, held=0, backbone="test_vit", min_crop=0.5)
    reporter = LocalReporter(tmp_path / "run")
    history = train_encoder(task, reporter)
    for name in ("vector_loss", "spatial_loss", "masked_loss"):
        assert history[-1][name] < history[0][name] * 0.8, name
    first = history[0]
    total = first["vector_loss"] + first["spatial_loss"] + first["masked_loss"]
    assert first["loss"] == pytest.approx(total, rel=1e-6)  # equal weights
    assert first["cosine"] == pytest.approx(1 - first["vector_loss"] / 2, rel=1e-6)
    assert load_encoder(encoder(reporter)).dim == 96


@pytest.mark.parametrize(("side", "student"), [(48, 32), (32, 64), (96, 32)])
def test_grids_of_other_sizes_than_the_teachers(tmp_path: Path, side: int, student: int) -> None:
    network = teacher(tmp_path / "teacher", side=side)
    task = job(tmp_path, 16, network=network, image_size=student, backbone="test_vit", epochs=1)
    trainer = EncoderTrainer(task, LocalReporter(tmp_path / "run"))
    step = trainer._step(next(iter(trainer.batches(0))))
    assert step.batch.pixels.shape[1] == max(side, student)
    assert step.taught.grid is not None
    assert step.outputs.grid is not None
    assert tuple(step.taught.grid.shape[1:]) == (math.ceil(side / 32), math.ceil(side / 32), 96)
    assert tuple(step.outputs.grid.shape[1:]) == (student // 16, student // 16, 96)
    means = trainer.losses(step.batch)
    assert all(torch.isfinite(part.total) for part in means.values())


def test_what_is_learned_are_the_losses_of_the_outputs(tmp_path: Path) -> None:
    network = teacher(tmp_path / "teacher")
    task = job(tmp_path, network=network, backbone="test_vit", spatial_weight=0.5, masked_weight=2)
    trainer = EncoderTrainer(task, LocalReporter(tmp_path / "run"))
    step = trainer._step(next(iter(trainer.batches(0))))
    terms = {term.name: term(step) for term in trainer.terms}
    vectors = load_encoder(network)
    assert step.masked is not None
    assert len(step.masked.rows) == 4
    assert (step.masked.masks.sum(dim=(1, 2)) == 2).all()
    expected = {
        "vector_loss": unit_distance(step.outputs.vectors, step.taught.vectors).mean(),
        "spatial_loss": 0.5 * grid_distance(step.outputs.grid, step.taught.grid).mean(),
        "masked_loss": 2
        * masked_distance(step.outputs.masked, step.taught.grid[step.masked.rows], step.masked.masks).mean(),
    }
    assert list(terms) == list(expected)
    for name, value in expected.items():
        assert terms[name].learned().item() == pytest.approx(value.item(), rel=1e-6), name
    # What the teacher says of a crop is what embed says of it.
    pixels = step.batch.pixels.numpy()
    data = json.loads(Path(network.model, "config.json").read_text())["pretrained_cfg"]
    mean, std = np.array(data["mean"]), np.array(data["std"])
    inputs = torch.from_numpy(((pixels / 255 - mean) / std).astype(np.float32)).permute(0, 3, 1, 2)
    np.testing.assert_allclose(
        vectors.encode(inputs), torch.nn.functional.normalize(step.taught.vectors).numpy(), atol=1e-5
    )


def test_losses_without_weight_cost_nothing(tmp_path: Path) -> None:
    network = teacher(tmp_path / "teacher")
    task = job(tmp_path, network=network, backbone="test_vit", spatial_weight=0)
    trainer = EncoderTrainer(task, LocalReporter(tmp_path / "run"))
    calls: list[int] = []
    trainer.student.encoder.backbone.patch_embed.register_forward_hook(lambda *call: calls.append(len(call[1][0])))
    step = trainer._step(next(iter(trainer.batches(0))))
    assert [term.name for term in trainer.terms] == ["vector_loss"]
    assert (trainer.student.spatial_head, trainer.student.masked_head, step.taught.grid) == (None, None, None)
    assert calls == [8]  # the images themselves, once
    assert set(trainer.losses(step.batch)) == {"vector_loss", "cosine"}
    assert not any("spatial" in name or "mask" in name for name in trainer.student.state_dict())


def test_a_cnn_learns_maps_without_masks(tmp_path: Path) -> None:
    task = job(tmp_path, network=teacher(tmp_path / "teacher"), epochs=1)
    assert [term.name for term in EncoderTrainer(task, LocalReporter(tmp_path / "run")).terms] == [
        "vector_loss",
        "spatial_loss",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["test_vit", "test_byobnet"])
def test_resumed_training_is_bit_equal(tmp_path: Path, backbone: str) -> None:
    whole, parts = LocalReporter(tmp_path / "whole"), LocalReporter(tmp_path / "parts")
    network = teacher(tmp_path / "teacher")
    arguments = {"drop_path_rate": 0.2} if backbone == "test_vit" else {"drop_rate": 0.2}
    task = job(tmp_path, network=network, held=4, epochs=4, backbone=backbone, backbone_args=arguments)
    train_encoder(task, whole)

    with pytest.raises(Killed):
        train_encoder(task, DiesAfter(tmp_path / "parts", 2))
    torch.manual_seed(99)  # nothing may depend on the state that the dead process left
    train_encoder(task, parts)
    assert [epoch["epoch"] for epoch in parts.history] == [3, 4]
    for name in ("model.safetensors", "head.safetensors"):
        a, b = (reporter.checkpoint / "last" / name for reporter in (whole, parts))
        assert a.read_bytes() == b.read_bytes()
    first, second = state(whole), state(parts)
    assert first["averaged_images"] == second["averaged_images"] == 4 * 44
    for part in ("student", "average"):
        assert all(torch.equal(value, second[part][name]) for name, value in first[part].items())
    assert [row | {"images_per_second": 0} for row in read_history(whole.checkpoint)] == [
        row | {"images_per_second": 0} for row in read_history(parts.checkpoint)
    ]
    train_encoder(task, parts)  # finished: it only reports again
    assert parts.history[-1] == read_history(parts.checkpoint)[-1]


def _train_as_one_of_two(rank: int, tasks: dict[str, EncoderJob], folder: Path) -> None:
    logging.disable()
    for name, task in tasks.items():
        train_encoder(task, RankReporter(folder / f"{name}-rank{rank}", rank))


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    # Layer normalisation only: batch statistics would be each process's own. 45 images: batches of unequal shares.
    # AdamW: where a gradient is almost nothing its sign decides, so the rate is small.
    network = teacher(tmp_path / "teacher")
    common: dict[str, Any] = {"held": 4, "epochs": 2, "batch_size": 9, "lr": 0.002, "backbone": "test_vit"}
    tasks = {
        "network": job(tmp_path / "a", 49, network=network, **common),
        "vectors": job(tmp_path / "b", 49, **common),
    }
    with two_processes(tmp_path, _train_as_one_of_two, tasks, tmp_path):
        for name, task in tasks.items():
            train_encoder(task, LocalReporter(tmp_path / name))
    for name in tasks:
        one, two = LocalReporter(tmp_path / name), LocalReporter(tmp_path / f"{name}-rank0")
        for a, b in zip(read_history(one.checkpoint), read_history(two.checkpoint), strict=True):
            assert a.keys() == b.keys()
            for key in a.keys() - {"images_per_second", "held_out_neighbours"}:
                assert a[key] == pytest.approx(b[key], rel=2e-3, abs=1e-4), (name, key)
        mine, theirs = state(one)["average"], state(two)["average"]
        for weight, value in mine.items():
            torch.testing.assert_close(theirs[weight], value, atol=1e-3, rtol=1e-2, msg=weight)


def test_what_is_saved_is_the_average_of_all_that_is_exported(tmp_path: Path) -> None:
    task = job(tmp_path, epochs=2)
    reporter = LocalReporter(tmp_path / "run")
    train_encoder(task, reporter)
    kept, last = state(reporter), reporter.checkpoint / "last"
    exported = {f"encoder.backbone.{name}": value for name, value in load_file(last / "model.safetensors").items()}
    exported |= {f"encoder.head.{name}": value for name, value in load_file(last / "head.safetensors").items()}
    assert exported.keys() <= kept["average"].keys()  # the head, too
    assert all(torch.equal(value, kept["average"][name]) for name, value in exported.items())
    assert not torch.equal(exported["encoder.head.1.weight"], kept["student"]["encoder.head.1.weight"])
    facts = read_model_file(last)
    assert (facts["dim"], facts["teacher"]) == (24, {"kind": "test"})
    plain = LocalReporter(tmp_path / "plain")
    train_encoder(replace(task, settings=task.settings.model_copy(update={"ema_epochs": None})), plain)
    assert "average" not in state(plain)
    weights = load_file(plain.checkpoint / "last" / "head.safetensors")
    assert torch.equal(weights["1.weight"], state(plain)["student"]["encoder.head.1.weight"])


def test_an_average_of_no_steps_is_what_it_starts_with(tmp_path: Path) -> None:
    trainer = EncoderTrainer(job(tmp_path), LocalReporter(tmp_path / "run"))
    trainer._save(_empty(tmp_path / "saved"))
    saved = load_file(tmp_path / "saved/last/head.safetensors")
    assert torch.equal(saved["1.weight"], trainer.student.encoder.head[1].weight)
    encoder = load_encoder(TimmVectors(model=str(tmp_path / "saved/last")))
    assert np.isfinite(encode_images(encoder, [Image.new("RGB", (40, 40), "red")])).all()


def test_the_rate_is_that_of_512_images_times_the_share_of_a_batch(tmp_path: Path) -> None:
    trainer = EncoderTrainer(job(tmp_path, lr=5e-4, batch_size=16, warmup_epochs=1), LocalReporter(tmp_path / "run"))
    assert trainer.steps == 3
    peak = 5e-4 * 16 / 512
    assert [trainer.rate(0, step) for step in range(3)] == pytest.approx([peak / 3, peak * 2 / 3, peak])
    assert trainer.rate(2, 0) == pytest.approx(peak * 0.5 * (1 + math.cos(math.pi * 3 / 6)))
    decayed = [group for group in trainer.optimiser.param_groups if group["weight_decay"] > 0]
    assert all(weight.ndim > 1 for group in decayed for weight in group["params"])
    assert isinstance(trainer.optimiser, torch.optim.AdamW)


def test_images_that_cannot_be_read_are_left_out_and_counted(tmp_path: Path) -> None:
    uris = photos(tmp_path / "photos", 30)
    Path(uris[3]).write_bytes(b"")
    Path(uris[29]).unlink()
    reporter = LocalReporter(tmp_path / "run")
    train_encoder(job(tmp_path, uris=uris, held=2, epochs=1), reporter)
    left_out = read_left_out(reporter.checkpoint)
    assert {place: failure.reason.value for place, failure in left_out.items()} == {3: "empty_file", 29: "not_found"}
    for uri in uris[:8]:
        Path(uri).write_bytes(b"no image")
    task = replace(job(tmp_path / "worse", uris=uris, epochs=1), max_error_share=0.1)
    with pytest.raises(EncoderTrainingError, match=r"9 of 30 training images cannot be read .*not_an_image"):
        train_encoder(task, LocalReporter(tmp_path / "no"))


def test_photos_of_8_pixels_are_enlarged(tmp_path: Path) -> None:
    uris = [str(tmp_path / f"{n}.png") for n in range(24)]
    for n, uri in enumerate(uris):
        Image.new("RGB", (8, 8) if n % 2 else (1, 8), (10 * n, 255 - 10 * n, 40)).save(uri)
    reporter = LocalReporter(tmp_path / "run")
    history = train_encoder(job(tmp_path, uris=uris, held=2, epochs=2), reporter)
    assert math.isfinite(history[-1]["loss"])
    assert "held_out_cosine" in history[-1]
    assert "held_out_neighbours" not in history[-1]  # of two images all are neighbours
    assert np.isfinite(encode_images(load_encoder(encoder(reporter)), [Image.open(uri) for uri in uris])).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 1}, r"1 images to learn from in batches of distill\.batch_size = 8 leave fewer than two"),
        ({"masked_weight": 1}, r"distill\.masked_weight = 1: patches of distill\.backbone 'test_byobnet' cannot be"),
    ],
)
def test_what_cannot_be_learned_is_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    network = teacher(tmp_path / "teacher") if "masked_weight" in settings else None
    task = job(tmp_path, network=network, **settings)
    with pytest.raises(EncoderTrainingError, match=message):
        train_encoder(task, LocalReporter(tmp_path / "run"))


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(EncoderTrainingError, match=r"not finite after epoch 1: lower distill\.lr"):
        train_encoder(job(tmp_path, lr=1e30), LocalReporter(tmp_path / "run"))
