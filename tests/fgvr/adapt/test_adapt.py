"""GRPO with LoRA on the tiny InternVL: reward, coefficient, gradient, resuming, bad input (related work D1)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fgvr.adapt import training
from fgvr.adapt.rewards import rewards
from fgvr.adapt.schedule import coefficient
from fgvr.adapt.training import Photos, Recipe, adapt, judged, load, right, save
from fgvr.demo.paths import MLLM_PATH
from fgvr.demo.samples import sample
from fgvr.demo.species import SPECIES
from fgvr.mllm.adapter_folder import AdapterError, Verdict, check_adapter
from fgvr.names.aliases import AliasTable

SMALL = {"answers": 4, "photos": 2, "max_tokens": 8, "lr": 1e-3}


def drawn(count: int, split: str = "train") -> Photos:
    found = [sample(5, split, index, difficulty=2.0) for index in range(count)]
    return Photos([Image.fromarray(one.image) for one in found], [SPECIES[one.class_id or 0].name for one in found])


def test_rewards_compare_whole_names() -> None:
    aliases = AliasTable({"passer domesticus": "House Sparrow"})
    assert rewards(["", None, "a sparrow or a wren"], ["sparrow"] * 3) == [0, 0, 0]
    assert rewards(["Passer domesticus", "house sparrow."], ["House Sparrow"] * 2, aliases) == [1, 1]
    assert rewards(["House Sparrow, Wren, Robin", "Sparrow"], ["House Sparrow"] * 2) == [0, 0]


def test_the_sign_changes_after_four_fifths_of_the_steps() -> None:
    assert [coefficient(step, 10, 0.5) for step in range(10)] == [0.5] * 8 + [-0.5] * 2
    assert {coefficient(step, 10, 0.5, "explore") for step in range(10)} == {0.5}
    assert {coefficient(step, 10, 0.5, "exploit") for step in range(10)} == {-0.5}


class Bare(torch.nn.Module):
    """A model of one token: logits z."""

    def __init__(self) -> None:
        super().__init__()
        self.z = torch.nn.Parameter(torch.tensor([0.0, np.log(3)], dtype=torch.float64))


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.1, -0.1])
def test_with_equal_rewards_only_the_entropy_moves_the_logits(beta: float, tmp_path: Path, monkeypatch) -> None:
    """TRL's own loss. z = (0, ln 3): p = (1/4, 3/4), H = .562335, dH/dz = −p(log p + H), worked by hand."""
    from trl.trainer.utils import entropy_from_logits

    bare = Bare()

    def logps(*_: object, **__: object) -> tuple[torch.Tensor, torch.Tensor, None]:
        logits = bare.z[None, None]
        return logits.log_softmax(-1)[..., 0], entropy_from_logits(logits), None

    trainer = training._trainer(*load(MLLM_PATH), drawn(4), Recipe(**SMALL), tmp_path, aliases=AliasTable())
    monkeypatch.setattr(trainer, "_get_per_token_logps_and_entropies", logps)
    trainer.entropy_coef, trainer.current_gradient_accumulation_steps = beta, 1
    one = torch.ones(1, 1, dtype=torch.long)
    keys = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
    loss = trainer._compute_loss(
        bare, dict.fromkeys(keys, one) | {"advantages": torch.zeros(1), "num_items_in_batch": torch.tensor(1)}
    )
    before = entropy_from_logits(bare.z[None, None]).item()
    assert before == pytest.approx(0.562335, abs=1e-6)
    assert loss.item() == pytest.approx(-beta * before, abs=1e-6)
    loss.backward()
    assert bare.z.grad is not None
    assert bare.z.grad.tolist() == pytest.approx([-beta * 0.205990, beta * 0.205990], abs=1e-6)
    with torch.no_grad():
        bare.z -= bare.z.grad  # one step of SGD
    assert (entropy_from_logits(bare.z[None, None]).item() > before) == (beta > 0)


@pytest.mark.slow
def test_a_killed_training_goes_on_with_the_coefficient_of_its_step(tmp_path: Path, monkeypatch) -> None:
    recipe = Recipe(steps=10, save_steps=5, **SMALL)
    real, learned = training.rewards, drawn(6)
    calls = []

    def killed(*arguments: object) -> list[float]:
        calls.append(1)
        if len(calls) > 7:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(training, "rewards", killed)
    with pytest.raises(KeyboardInterrupt):
        adapt(*load(MLLM_PATH), learned, recipe, tmp_path)
    monkeypatch.setattr(training, "rewards", real)
    seen = []
    monkeypatch.setattr(training, "rewards", lambda *arguments: seen.append(1) or real(*arguments))
    _, steps = adapt(*load(MLLM_PATH), learned, recipe, tmp_path)
    assert len(seen) == 5  # steps 6 to 10 alone were computed again
    assert [row.step for row in steps] == list(range(1, 11))
    assert [row.coefficient for row in steps] == [0.01] * 8 + [-0.01] * 2


@pytest.mark.slow
def test_equal_rewards_teach_nothing_but_entropy(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(training, "rewards", lambda answers, *_: [1.0] * len(answers))
    _, steps = adapt(*load(MLLM_PATH), drawn(4), Recipe(steps=2, **SMALL), tmp_path)
    for row in steps:
        assert row.same == 1
        assert row.reward == 1
        assert np.isfinite(row.loss)


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_the_training(tmp_path: Path) -> None:
    model, processor = load(MLLM_PATH)
    with pytest.raises(AdapterError, match=r"not a number; lower adapt\.lr"):
        adapt(model, processor, drawn(4), Recipe(steps=2, beta=float("inf"), **SMALL), tmp_path)


def test_without_trusted_photos_or_with_one_name_nothing_is_trained(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="no photo has a trusted name"):
        adapt(None, None, Photos([], []), Recipe(), tmp_path)
    image = Image.new("RGB", (64, 64))
    with pytest.raises(AdapterError, match="at least two names"):
        adapt(None, None, Photos([image] * 3, ["wren"] * 3), Recipe(), tmp_path)


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(training.importlib.util, "find_spec", lambda name: None if name == "trl" else object())
    with pytest.raises(AdapterError, match=r"trl not installed here; pip install 'fgvr\[adapt\]'"):
        adapt(None, None, Photos([], []), Recipe(), tmp_path)


@pytest.mark.slow
def test_an_adapter_belongs_to_its_model_and_holds_no_pickles(tmp_path: Path) -> None:
    model, processor = load(MLLM_PATH)
    held_out, folder = drawn(8, "test"), tmp_path / "adapter"
    before = right(model, processor, held_out, 8)
    model, _ = adapt(model, processor, drawn(4), Recipe(steps=1, **SMALL), tmp_path / "training")
    verdict = judged(before, right(model, processor, held_out, 8))
    save(model, folder, MLLM_PATH, verdict)
    assert check_adapter(folder, MLLM_PATH, anyway=True) == 8
    assert json.loads((folder / "adaptation.json").read_text())["taken"] == verdict.taken
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    with pytest.raises(AdapterError, match="trained on another model"):
        check_adapter(folder, other, anyway=True)
    (folder / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(AdapterError, match="pickled files"):
        check_adapter(folder, MLLM_PATH)


def test_an_adapter_is_taken_only_where_it_is_better() -> None:
    none, half = np.zeros(100), np.arange(100) % 2.0
    assert judged(none, half).taken
    assert not judged(half, half).taken
    assert not judged(half, none).taken
    assert not judged(np.zeros(1), np.ones(1)).taken  # one photo proves nothing
    assert "not taken" in Verdict(1, 0, 1, float("nan"), float("nan"), 1, 0).sentence()


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="no folder"):
        check_adapter(tmp_path / "none")
    with pytest.raises(AdapterError, match=r"no adapter_config.json"):
        check_adapter(tmp_path)
