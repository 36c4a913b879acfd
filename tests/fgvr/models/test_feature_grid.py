"""Feature maps of timm models in one layout, and masked patches of vision transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fgvr.models.feature_grid import PatchMasks, grid_of
from fgvr.models.student import timm_preprocess

import timm  # isort: skip - behind fgvr, which prepares torchvision beside a CPU torch


def network(name: str, side: int = 64) -> Any:
    timm_preprocess(name, side)
    torch.manual_seed(0)
    fixed = {"img_size": side} if name == "test_vit" else {}
    return timm.create_model(name, num_classes=0, **fixed).eval()


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("test_resnet", (2, 2, 96)),
        ("test_convnext", (2, 2, 64)),
        ("test_mambaout", (2, 2, 64)),  # channels last
        ("test_vit", (4, 4, 64)),  # behind a class token
    ],
)
def test_maps_have_one_layout(name: str, shape: tuple[int, ...]) -> None:
    model = network(name)
    with torch.no_grad():
        features = model.forward_features(torch.randn(3, 3, 64, 64))
    grid = grid_of(model, features, 64, 64)
    assert grid is not None
    assert tuple(grid.shape) == (3, *shape)
    # Channels are those of the cell: a cell of channels-first maps by hand.
    expected = features[1, 1 + 4 * 1 + 0] if name == "test_vit" else None
    if name in {"test_resnet", "test_convnext"}:
        expected = features[1, :, 1, 0]
    if expected is not None:
        assert torch.equal(grid[1, 1, 0], expected)


def test_tokens_that_are_no_grid_have_no_map() -> None:
    model = torch.nn.Identity()
    assert grid_of(model, torch.zeros(2, 10, 4), 32, 32) is None
    assert grid_of(model, torch.zeros(2, 4), 32, 32) is None
    wide = grid_of(model, torch.zeros(2, 8, 4), 32, 64)
    assert wide is not None
    assert tuple(wide.shape) == (2, 2, 4, 4)


def test_only_patches_that_stay_in_their_places_can_be_masked() -> None:
    assert PatchMasks.of(network("test_resnet"), 64) is None
    assert PatchMasks.of(network("test_convnext"), 64) is None
    masks = PatchMasks.of(network("test_vit"), 64)
    assert masks is not None
    assert (masks.grid, masks.width) == ((4, 4), 64)


def test_a_masked_patch_is_the_token_whatever_the_image_shows_there() -> None:
    model = network("test_vit")
    masks = PatchMasks.of(model, 64)
    assert masks is not None
    first = torch.randn(1, 3, 64, 64)
    other = first.clone()
    other[:, :, 16:32, 32:48] = 0  # the patch in row 1, column 2
    masked, token = torch.zeros(1, 4, 4, dtype=torch.bool), torch.randn(64)
    with torch.no_grad():
        plain = model.forward_features(first)
        assert not torch.allclose(plain, model.forward_features(other))
        with masks.masking(masked, token):
            assert torch.equal(model.forward_features(first), plain)  # nothing is masked
        masked[0, 1, 2] = True
        with masks.masking(masked, token):
            hidden = model.forward_features(first)
            assert torch.equal(hidden, model.forward_features(other))
        assert not torch.allclose(hidden, plain)
        assert torch.equal(model.forward_features(first), plain)  # behind the block
        # By hand: the token in the patch's place, then timm's own further steps.
        tokens = model.patch_embed(first)
        tokens[0, 1, 2] = token  # channels last, since this model takes any size
        by_hand = model.norm(model.blocks(model.norm_pre(model.patch_drop(model._pos_embed(tokens)))))
    torch.testing.assert_close(hidden, by_hand, atol=1e-6, rtol=1e-5)
