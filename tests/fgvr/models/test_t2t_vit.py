"""T2T-ViT against the paper's sizes, a formula of its attention, and what students need of a network."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from fgvr.compare.cost import multiply_adds, parameters
from fgvr.config import build
from fgvr.models.student import StudentError, StudentSpec, build_student, load_student, save_student, timm_preprocess
from fgvr.models.t2t_vit import EPSILON, FEATURES, T2TViT, TokenPerformer, sinusoids
from fgvr.training.optimisers import optimiser_of


@pytest.mark.parametrize(
    ("name", "millions", "gmacs"), [("7", 4.3, 1.1), ("10", 5.9, 1.5), ("12", 6.9, 1.8), ("14", 21.5, 4.8)]
)
def test_sizes_are_those_that_were_published(name: str, millions: float, gmacs: float) -> None:
    # Yuan et al. 2021, tables 1 to 3; the authors count the fixed position codes and features as well.
    network = timm.create_model(f"fgvr_t2t_vit_{name}").eval()
    fixed = sum(buffer.numel() for buffer in network.buffers())
    assert (parameters(network) + fixed) / 1e6 == pytest.approx(millions, rel=0.02)
    assert parameters(network) / 1e6 == pytest.approx(millions, rel=0.02)
    assert multiply_adds(network, 224) / 1e9 == pytest.approx(gmacs, rel=0.1)


def test_linear_attention_is_the_formula_token_by_token() -> None:
    torch.manual_seed(0)
    layer, tokens = TokenPerformer(10), torch.randn(2, 5, 10)
    found = layer(tokens)
    keys, queries, values = layer.kqv(layer.norm1(tokens)).chunk(3, dim=-1)
    for image in range(2):
        for place in range(5):
            weights = torch.stack(
                [
                    sum(
                        torch.exp(w @ queries[image, place] - queries[image, place].square().sum() / 2)
                        * torch.exp(w @ keys[image, other] - keys[image, other].square().sum() / 2)
                        / FEATURES
                        for w in layer.features
                    )
                    for other in range(5)
                ]
            )
            seen = (weights[:, None] * values[image]).sum(dim=0) / (weights.sum() + EPSILON)
            mixed = values[image, place] + layer.proj(seen)
            expected = mixed + layer.mlp(layer.norm2(mixed))
            torch.testing.assert_close(found[image, place], expected, atol=1e-4, rtol=1e-4)


def test_position_codes_by_hand() -> None:
    codes = sinusoids(3, 4)
    assert codes[0].tolist() == [0, 1, 0, 1]
    torch.testing.assert_close(codes[2], torch.tensor([0.909297, -0.416147, 0.019999, 0.999800]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("side", [64, 96, 100])
def test_a_student_of_any_size_learns_in_every_layer(side: int) -> None:
    spec = StudentSpec("fgvr_t2t_vit_7", ("a", "b"), (), timm_preprocess("fgvr_t2t_vit_7", side))
    network = build_student(spec).train()
    outputs = network(torch.randn(2, 3, side, side))
    assert outputs.shape == (2, 2)
    outputs.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in network.parameters())


def test_a_saved_student_answers_alike(tmp_path: Path) -> None:
    spec = StudentSpec("fgvr_t2t_vit_7", ("a", "b"), (), timm_preprocess("fgvr_t2t_vit_7", 48))
    network = build_student(spec).eval()
    save_student(tmp_path, spec, network.state_dict(), {})
    _, loaded = load_student(tmp_path)
    pixels = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(loaded(pixels), network(pixels))


def test_layers_learn_at_their_own_rates() -> None:
    spec = StudentSpec("fgvr_t2t_vit_7", ("a", "b"), (), timm_preprocess("fgvr_t2t_vit_7", 48))
    network = build_student(spec)
    settings = build({"makd": {"optimizer": "adamw", "lr": 1e-3, "layer_decay": 0.5}}).makd
    groups = optimiser_of(network, settings).param_groups
    scales = {
        name: group["lr_scale"]
        for group in groups
        for name, weight in network.named_parameters()
        if any(weight is each for each in group["params"])
    }
    assert scales["head.weight"] == 1
    assert scales["project.weight"] < scales["blocks.0.qkv.weight"] < scales["blocks.6.qkv.weight"] < 1


def test_photos_of_another_size_and_pretrained_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="for 64"):
        T2TViT(img_size=64)(torch.zeros(1, 3, 32, 32))
    spec = StudentSpec("fgvr_t2t_vit_7", ("a",), (), timm_preprocess("fgvr_t2t_vit_7", 64), {"unknown": 1})
    with pytest.raises(StudentError, match="cannot be built"):
        build_student(spec)
