"""The optimiser of a student: AdamW and SGD by layers, and what of it learns."""

from __future__ import annotations

import pytest
import timm
import torch
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from fgvr.config import Makd
from fgvr.training.loop import train
from fgvr.training.optimisers import freeze_backbone, optimiser_of
from fgvr.training.reporter import LocalReporter
from fgvr.training.student import StudentTrainer
from tests.fgvr.training.coloured_photos import job


def network(name: str = "test_vit", **more: object) -> torch.nn.Module:
    torch.manual_seed(0)
    made: torch.nn.Module = timm.create_model(name, num_classes=3, **more)
    return made


def stepped(model: torch.nn.Module, optimiser: torch.optim.Optimizer, steps: int = 3) -> dict[str, torch.Tensor]:
    """The weights after some steps on fixed images."""
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(model.eval()(images), torch.tensor([0, 1, 2, 0])).backward()
        optimiser.step()
    return model.state_dict()


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, atol=1e-7, rtol=1e-5)


def test_sgd_is_the_papers() -> None:
    settings = Makd(lr=0.1, momentum=0.8, weight_decay=0.01)
    mine, other = network("test_resnet"), network("test_resnet")
    found = optimiser_of(mine, settings)
    assert len(found.param_groups) == 1
    assert "lr_scale" not in found.param_groups[0]
    own = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.8, weight_decay=0.01)
    equal(stepped(mine, found), stepped(other, own))


def test_adamw_decays_weights_alone() -> None:
    settings = Makd(optimizer="adamw", lr=0.01, weight_decay=0.3)
    mine, other = network(img_size=32), network(img_size=32)
    found = optimiser_of(mine, settings)
    spared = {"cls_token", "pos_embed", "reg_token"}
    decayed = [weight for name, weight in other.named_parameters() if weight.ndim > 1 and name not in spared]
    plain = [weight for name, weight in other.named_parameters() if weight.ndim <= 1 or name in spared]
    groups = [{"params": decayed, "weight_decay": 0.3}, {"params": plain, "weight_decay": 0.0}]
    equal(stepped(mine, found), stepped(other, torch.optim.AdamW(groups, lr=0.01)))


def test_layers_learn_more_slowly_the_lower_they_are() -> None:
    # A ViT: its embeddings, its blocks, the last with the last norm, and the head: 0.5 ^ (layers above it).
    model = network(img_size=32)
    depth = len(model.blocks)
    found = optimiser_of(model, Makd(optimizer="adamw", layer_decay=0.5))
    scales = {id(weight): group["lr_scale"] for group in found.param_groups for weight in group["params"]}
    named = {name: scales[id(weight)] for name, weight in model.named_parameters()}
    assert named["head.weight"] == named["head.bias"] == 1
    assert named["norm.weight"] == 0.5
    for number in range(depth):
        assert named[f"blocks.{number}.attn.qkv.weight"] == 0.5 ** (depth - number)
    assert named["patch_embed.proj.weight"] == named["pos_embed"] == 0.5 ** (depth + 1)
    assert len(named) == len(list(model.parameters()))


def test_layers_of_a_cnn_under_sgd_decay_as_without() -> None:
    model = network("test_resnet")
    found = optimiser_of(model, Makd(layer_decay=0.75, weight_decay=0.01))
    assert isinstance(found, torch.optim.SGD)
    assert {group["weight_decay"] for group in found.param_groups} == {0.01}  # of biases and norms, too
    scales = {id(weight): group["lr_scale"] for group in found.param_groups for weight in group["params"]}
    named = {name: scales[id(weight)] for name, weight in model.named_parameters()}
    assert named["fc.weight"] == 1
    assert named["conv1.0.weight"] == min(named.values()) < named["layer2.0.conv1.weight"] < 1


def test_the_loop_scales_the_rate_of_each_layer(tmp_path) -> None:
    task = job(tmp_path, epochs=1, lr=0.4, layer_decay=0.5, warmup_epochs=1)
    trainer = StudentTrainer(task, LocalReporter(tmp_path / "run"))
    train(trainer)  # its last step has the whole rate
    rates = {group["lr_scale"]: group["lr"] for group in trainer.optimiser.param_groups}
    assert len(rates) > 3
    assert all(rate == pytest.approx(0.4 * scale, rel=1e-12) for scale, rate in rates.items())


def test_a_frozen_backbone_lets_its_classifier_learn_alone() -> None:
    for name in ("test_vit", "test_resnet", "test_byobnet"):
        model = network(name)
        held = freeze_backbone(model)
        free = [place for place, weight in model.named_parameters() if weight.requires_grad]
        assert len(free) == 2
        assert all(dict(model.named_parameters())[place].shape[0] == 3 for place in free)
        assert len(held) == len(list(model.parameters())) - 2


def test_what_a_model_never_learns_stays_so() -> None:
    model = network()
    model.pos_embed.requires_grad_(False)  # fixed by the model itself
    held = freeze_backbone(model)
    assert all(weight is not model.pos_embed for weight in held)
