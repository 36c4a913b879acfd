"""`makd.weights` in a run: refused before anything is asked, known by content, and put where workers read it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fgvr.config import Config, Makd, build
from fgvr.errors import UserError
from fgvr.models.student import StudentSpec, build_student, timm_preprocess
from pipelines.makd import check_pace
from pipelines.preflight import check_tables
from pipelines.start_weights import put_weights
from pipelines.student_task import spec_of
from pipelines.teacher import recipe
from tests.fgvr.models.timm_folders import BACKBONE, timm_folder


@pytest.fixture
def whole() -> dict[str, torch.Tensor]:
    import timm  # after fgvr, which prepares torchvision beside a CPU torch

    torch.manual_seed(2)
    state: dict[str, torch.Tensor] = timm.create_model(BACKBONE).state_dict()
    return state


def settings(weights: Path | str | None, **more: Any) -> Makd:
    return Makd(backbone=BACKBONE, image_size=32, weights=None if weights is None else str(weights), **more)


def check(made: Makd) -> None:
    config: Config = build({}).model_copy(update={"makd": made})
    check_tables(config, ["base"])


def test_weights_are_read_completely_before_anything_starts(tmp_path: Path, whole: dict[str, torch.Tensor]) -> None:
    save_file(whole, tmp_path / "w.safetensors")
    check(settings(tmp_path / "w.safetensors"))
    save_file(dict(list(whole.items())[5:]), tmp_path / "half.safetensors")
    broken = {**whole, "stem.conv.weight": torch.full_like(whole["stem.conv.weight"], float("nan"))}
    save_file(broken, tmp_path / "nan.safetensors")
    for name, message in (
        (
            "half.safetensors",
            r"makd\.weights: half\.safetensors does not fit makd\.backbone = test_byobnet: \d+ of its",
        ),
        ("nan.safetensors", r"makd\.weights: nan\.safetensors: stem\.conv\.weight has 648 values that are NaN"),
        ("none.safetensors", r"makd\.weights = .*/none\.safetensors: there is nothing at this path"),
        ("hf-hub:owner/none", r"makd\.weights: the Hugging Face hub did not give"),
    ):
        with pytest.raises(UserError, match=message):
            check(settings(name if ":" in name else tmp_path / name))


def test_the_input_is_that_of_the_weights(tmp_path: Path, whole: dict[str, torch.Tensor]) -> None:
    folder = timm_folder(tmp_path / "net", whole)
    made, plain = (spec_of(settings(place), ("a",), ()).preprocess for place in (folder, None))
    assert (made.mean, made.std) == ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    assert plain == timm_preprocess(BACKBONE, 32)
    assert (made.input_size, made.stored_side) == (plain.input_size, plain.stored_side)
    # A bare file says nothing, so it is that of the architecture.
    assert spec_of(settings(folder / "model.safetensors"), ("a",), ()).preprocess == plain


def test_weights_count_by_content(tmp_path: Path, whole: dict[str, torch.Tensor]) -> None:
    def decided(place: Path | None) -> dict[str, Any]:
        return recipe(settings(place), None)

    save_file(whole, tmp_path / "a.safetensors")
    shutil.copy(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    save_file({**whole, "stem.conv.weight": whole["stem.conv.weight"] + 1}, tmp_path / "c.safetensors")
    here = decided(tmp_path / "a.safetensors")
    assert decided(tmp_path / "b.safetensors") == here != decided(tmp_path / "c.safetensors")
    assert str(tmp_path) not in repr(here)
    assert here == decided(None) | {"weights": here["weights"]}
    assert recipe(settings(tmp_path / "a.safetensors"), None, ["weights"]) == decided(None)


def test_workers_get_what_was_taken(tmp_path: Path, whole: dict[str, torch.Tensor]) -> None:
    save_file(whole, tmp_path / "w.safetensors")
    made = settings(tmp_path / "w.safetensors")
    spec: StudentSpec = spec_of(made, ("a", "b"), ("Is it red?",))
    uri, sentence = put_weights(made, spec, str(tmp_path / "start"))
    found = load_file(uri)
    assert found.keys() == whole.keys() - {"head.fc.weight", "head.fc.bias"}
    assert all(torch.equal(value, whole[name]) for name, value in found.items())
    assert "for 2 classes and 1 aspects; theirs has 1000 outputs" in sentence


def test_a_rate_of_sgd_for_adamw_draws_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    for more in ({"optimizer": "adamw", "lr": 5e-4}, {"lr": 0.01}):
        check(settings(None, **more))
    assert "adamw" not in caplog.text
    check(settings(None, optimizer="adamw"))
    assert "makd.lr = 0.01 with makd.optimizer = adamw: that is a rate of SGD" in caplog.text


def test_arguments_that_the_backbone_does_not_take_are_refused_before_anything_starts() -> None:
    with pytest.raises(UserError, match="nonsense"):
        check(settings(None, backbone_args={"nonsense": 1}))


def test_statistics_to_keep_where_there_are_none_draw_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = spec_of(Makd(backbone="test_vit", image_size=32), ("a",), ())
    state = {name: value.contiguous() for name, value in build_student(spec).state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    check(Makd(backbone="test_vit", image_size=32, weights=str(tmp_path / "w.safetensors"), batch_norm="frozen"))
    assert "makd.batch_norm = frozen: makd.backbone test_vit has no batch normalisation" in caplog.text


def test_an_average_that_hardly_forgets_draws_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    check_pace(Makd(ema=5000, epochs=10), 1000)
    check_pace(Makd(epochs=10), 1000)
    assert not caplog.records
    check_pace(Makd(ema=5001, epochs=10), 1000)
    assert "makd.ema = 5,001 images: the whole training learns from 10,000" in caplog.text
    assert "a tenth of it is usual, 1,000" in caplog.text


def test_a_training_that_ends_in_its_warm_up_draws_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    check_pace(Makd(warmup_epochs=1, epochs=2), 1000)
    assert not caplog.records
    check_pace(Makd(warmup_epochs=1, epochs=1), 1000)
    assert "makd.warmup_epochs = 1 of 1 epochs: the learning rate rises until the end" in caplog.text
