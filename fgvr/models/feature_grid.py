"""Feature maps of timm models in one layout, [N, h, w, C], and patches of vision transformers that can be masked."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def grid_of(network: nn.Module, features: Tensor, height: int, width: int) -> Tensor | None:
    """What `forward_features` of a timm model gives, as a map [N, h, w, C]; None if it is no map.

    Maps are channels first or last, as the model's `output_fmt` says. Of tokens those before the patches (class,
    registers) are left out; the patches form a grid of the input's shape.

    Args:
        network: the model.
        features: its features, [N, C, h, w], [N, h, w, C] or [N, tokens, C].
        height: of the input, pixels.
        width: of the input, pixels.
    """
    if features.ndim == 4:
        return features if str(getattr(network, "output_fmt", "")).endswith("NHWC") else features.permute(0, 2, 3, 1)
    if features.ndim != 3:
        return None
    first = int(getattr(network, "num_prefix_tokens", 0) or 0)
    patches = features.shape[1] - first
    rows, columns = round(math.sqrt(patches * height / width)), round(math.sqrt(patches * width / height))
    if rows < 1 or rows * columns != patches:
        return None
    return features[:, first:].reshape(len(features), rows, columns, features.shape[2])


class PatchMasks:
    """Puts a learned token in the place of masked patches, before position embeddings are added (as iBOT, DINOv2).

    Attributes:
        grid: rows and columns of patches.
        width: numbers of a patch's embedding.
    """

    def __init__(self, network: Any, grid: tuple[int, int], width: int) -> None:
        """Hooks into `network.patch_embed`; `of` makes one where that is possible."""
        self.grid, self.width = grid, width
        self._now: tuple[Tensor, Tensor] | None = None
        network.patch_embed.register_forward_hook(self._replace)

    @classmethod
    def of(cls, network: nn.Module, side: int) -> PatchMasks | None:
        """For a model whose features are its patches, each at its place, as in vision transformers; else None."""
        found: list[Any] = []
        embed: Any = getattr(network, "patch_embed", None)
        if not isinstance(embed, nn.Module):
            return None
        hook = embed.register_forward_hook(lambda *call: found.append(call[2]))
        weight = next(network.parameters())
        with torch.no_grad():
            features: Tensor = network.forward_features(torch.zeros(1, 3, side, side, device=weight.device))  # type: ignore[operator]
        hook.remove()
        grid = grid_of(network, features, side, side) if features.ndim == 3 else None
        if grid is None or len(found) != 1 or not isinstance(found[0], Tensor):
            return None
        rows, columns = grid.shape[1:3]
        embedded = found[0].flatten(1, -2)
        if embedded.shape[1] != rows * columns:
            return None
        return cls(network, (rows, columns), embedded.shape[2])

    @contextmanager
    def masking(self, masks: Tensor, token: Tensor) -> Iterator[None]:
        """Within the block, patches of the model's input are masked: `masks` bool [N, h, w], `token` [width]."""
        self._now = masks, token
        try:
            yield
        finally:
            self._now = None

    def _replace(self, module: nn.Module, inputs: Any, patches: Tensor) -> Tensor | None:
        if self._now is None:
            return None
        masks, token = self._now
        return torch.where(masks.reshape(*patches.shape[:-1], 1), token.to(patches.dtype), patches)
