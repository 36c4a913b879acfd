"""The losses of encoder distillation, against torch's own functions and numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from fgvr.losses.encoder import at_grid, draw_masks, grid_distance, masked_distance, masked_images, unit_distance


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_it_is_the_squared_error_of_unit_vectors_and_twice_what_the_cosine_lacks() -> None:
    student, teacher = drawn(7, 12) * 5, drawn(7, 12, seed=1)
    found = unit_distance(student, teacher)
    units = [each / each.norm(dim=1, keepdim=True) for each in (student, teacher)]
    squares = functional.mse_loss(*units, reduction="none").mean(dim=1)
    torch.testing.assert_close(found / 12, squares, atol=1e-6, rtol=1e-6)
    cosines = functional.cosine_similarity(student, teacher)
    torch.testing.assert_close(found / 12, (2 - 2 * cosines) / 12, atol=1e-6, rtol=1e-6)


def test_worked_by_hand() -> None:
    vectors = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    teacher = torch.tensor([[6.0, 8.0], [-2.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    # The same direction; the opposite one; a right angle; none at all.
    assert unit_distance(vectors, teacher).tolist() == pytest.approx([0, 4, 2, 1], abs=1e-6)
    torch.testing.assert_close(unit_distance(vectors[:3], vectors[:3] * 9), torch.zeros(3), atol=1e-12, rtol=0)


def test_nothing_is_broadcast() -> None:
    with pytest.raises(ValueError, match=r"\(3, 4\) and \(1, 4\)"):
        unit_distance(torch.zeros(3, 4), torch.zeros(1, 4))
    with pytest.raises(ValueError, match=r"\(3, 4\) and \(3, 5\)"):
        unit_distance(torch.zeros(3, 4), torch.zeros(3, 5))


def test_low_precision_is_compared_in_float32() -> None:
    close = torch.tensor([[1.0, 0.0078125]])
    found = unit_distance(close.bfloat16(), torch.tensor([[1.0, 0.0]]).bfloat16())
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(2 - 2 / np.sqrt(1 + 0.0078125**2), rel=1e-3)


def test_maps_are_compared_at_the_teachers_grid() -> None:
    same = drawn(2, 3, 5, 8)
    assert torch.equal(at_grid(same, 3, 5), same)
    # 4 × 4 to 2 × 2: the weights of a triangle of four cells, 1, 3, 3, 1, cut at the edge.
    wide = torch.arange(4.0).repeat(4, 1)[None, :, :, None]
    across = [(0 * 3 + 1 * 3 + 2 * 1) / 7, (1 * 1 + 2 * 3 + 3 * 3) / 7]
    torch.testing.assert_close(at_grid(wide, 2, 2)[0, 0, :, 0], torch.tensor(across), atol=1e-6, rtol=1e-6)
    # 2 to 4 cells: halfway between centres, ¾ and ¼.
    pair = torch.tensor([0.0, 1.0])[None, None, :, None]
    torch.testing.assert_close(at_grid(pair, 1, 4)[0, 0, :, 0], torch.tensor([0, 0.25, 0.75, 1.0]))
    constant = torch.ones(1, 7, 7, 3) * torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(at_grid(constant, 4, 9), constant[:, :1, :1].expand(1, 4, 9, 3))
    teacher = drawn(2, 2, 2, 3, seed=2)
    student = torch.zeros(2, 6, 6, 3)
    for row in range(6):
        for column in range(6):
            student[:, row, column] = teacher[:, row // 3, column // 3]
    assert (grid_distance(student, teacher) < 0.2).all()
    assert (grid_distance(student.flip(1), teacher) > 0.3).any()


def test_a_map_is_the_mean_of_its_cells() -> None:
    student, teacher = drawn(3, 2, 4, 5), drawn(3, 2, 4, 5, seed=1)
    cells = (2 - 2 * functional.cosine_similarity(student, teacher, dim=-1)).mean(dim=(1, 2))
    torch.testing.assert_close(grid_distance(student, teacher), cells)


def test_of_masked_patches_only_they_count() -> None:
    student, teacher = drawn(2, 2, 2, 6), drawn(2, 2, 2, 6, seed=1)
    masks = torch.tensor([[[True, False], [False, True]], [[False, False], [False, False]]])
    cells = 2 - 2 * functional.cosine_similarity(student, teacher, dim=-1)
    expected = torch.tensor([float(cells[0, 0, 0] + cells[0, 1, 1]) / 2, 0.0])
    torch.testing.assert_close(masked_distance(student, teacher, masks), expected)
    # At a coarser grid a cell counts by its masked share: only the left half is masked here.
    halves = torch.tensor([[True, True, False, False]]).repeat(4, 1)[None]
    features = torch.zeros(1, 4, 4, 2)
    features[..., :2, 0] = features[..., 2:, 1] = 1
    left_right = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).repeat(2, 1, 1)[None].permute(0, 2, 1, 3)
    same = masked_distance(features, left_right, halves)
    assert 0 < same.item() < 0.3  # cells at the border hold a little of the other half
    assert masked_distance(features, features, halves).item() == 0


def test_half_of_the_images_and_half_of_their_patches_are_masked() -> None:
    total = masked = 0
    for step in range(200):
        chosen, masks = draw_masks(32, (14, 14), (3, 0, step, 1))
        assert len(chosen) == masked_images(32) == 16
        assert (masks.sum(axis=(1, 2)) == 98).all()
        assert (np.diff(chosen) > 0).all()
        total, masked = total + 32 * 196, masked + int(masks.sum())
    assert masked / total == pytest.approx(0.25, abs=0.01)
    chosen, masks = draw_masks(32, (14, 14), (3, 0, 0, 1))
    again, others = draw_masks(32, (14, 14), (3, 0, 0, 1)), draw_masks(32, (14, 14), (3, 0, 1, 1))
    assert np.array_equal(chosen, again[0])
    assert np.array_equal(masks, again[1])
    assert not np.array_equal(masks, others[1])
    # Every image and every patch has its turn.
    turns = np.zeros(32)
    for step in range(200):
        turns[draw_masks(32, (2, 2), (step,))[0]] += 1
    assert turns.min() > 60
    assert len(draw_masks(1, (2, 2), (0,))[0]) == 0
