"""Context optimisation (CoOp): prompts `[V]_1 … [V]_M name.` with learned context vectors; all else is frozen.

Zhou et al., "Learning to Prompt for Vision-Language Models" (IJCV 2022); defaults of KaiyangZhou/CoOp.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from fgvr.clip.prompt_layout import CONTEXT, PromptLayout, Tokenizer
from fgvr.clip.text_tower import Packing, TextTower

CONTEXT_STD = 0.02


class PromptLearner(nn.Module):
    """Text features of all names as a function of the context vectors, its only parameters.

    Args:
        tower: the frozen text tower.
        layout: token ids of the prompts.
        start: initial context vectors, float [M, width].
        class_specific: a separate context per name ([C, M, width]) instead of a shared one ([M, width]).
    """

    def __init__(self, tower: TextTower, layout: PromptLayout, start: Tensor, class_specific: bool = False) -> None:
        super().__init__()
        names = len(layout.ids)
        self.tower = tower
        self.context = nn.Parameter(start.float().expand(names, -1, -1).clone() if class_specific else start.float())
        self.shared_prefix = 0 if class_specific else layout.shared
        self.register_buffer("ids", layout.ids, persistent=False)
        self.ids: Tensor
        self.lengths = layout.end + 1  # always on the CPU

    def __len__(self) -> int:
        """Number of names."""
        return len(self.ids)

    def forward(self, rows: slice = slice(None)) -> Tensor:
        """Features of the names in `rows`, L2-normalised float32 [c, dim]."""
        return self.encode(rows, self.context if self.context.ndim == 2 else self.context[rows])

    def encode(self, rows: slice, context: Tensor) -> Tensor:
        """As `forward` with another context, [M, width] or [c, M, width]."""
        begin = self.shared_prefix
        packing = Packing.of(self.lengths[rows] - begin, self.ids.device)
        ids = packing.pack(self.ids[rows, begin : begin + packing.longest])
        prefix = None
        if begin:
            prefix = self._embed(self.ids[0, :begin], context)
            tokens = self.tower.token_embedding(ids)
        else:
            tokens = self._embed(ids, context.expand(packing.rows, -1, -1))
        return F.normalize(self.tower.encode(tokens, packing, prefix).float(), dim=-1)

    def features(self, chunk: int, rows: slice = slice(None)) -> Tensor:
        """As `forward`, but with at most `chunk` names in the tower at a time, also in the backward pass.

        Only the last chunk's activations are kept: the backward pass begins with it, then reruns the forward pass of
        one chunk after another and adds its share of the gradient (a two-pass gradient cache, Gao et al. 2021). Memory
        is that of one chunk for any number of names, and the gradient equals that of the plain computation up to
        rounding.
        """
        first, last, _ = rows.indices(len(self))
        *before, final = [slice(at, min(at + chunk, last)) for at in range(first, last, chunk)]
        if not before:
            return torch.as_tensor(self(final))
        return torch.cat([_Chunks.apply(self, before, self.context), self(final)])  # type: ignore[no-untyped-call]

    def _embed(self, ids: Tensor, context: Tensor) -> Tensor:
        """Embeddings [T, width] of token ids [T], with the vectors of `context` […, width] inserted in order."""
        learned = ids == CONTEXT
        tokens: Tensor = self.tower.token_embedding(ids.masked_fill(learned, 0))
        return tokens.masked_scatter(learned[:, None].expand_as(tokens), context.to(tokens.dtype))


class _Chunks(torch.autograd.Function):
    """Features of names, chunk by chunk; no autograd graph is held between the two passes.

    torch.utils.checkpoint would hold a graph of small objects, between which the C heap cannot reuse the memory of
    freed activations: 20,000 names took more than 11 GB, of which one was in use.
    """

    @staticmethod
    def forward(ctx: Any, learner: PromptLearner, chunks: list[slice], context: Tensor) -> Tensor:
        device = context.device.type
        ctx.learner, ctx.chunks = learner, chunks
        ctx.autocast = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        ctx.save_for_backward(context)
        return torch.cat([learner(rows) for rows in chunks])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, Tensor]:
        (context,), device, (dtype, enabled) = ctx.saved_tensors, ctx.autocast[0], ctx.autocast[1:]
        total = torch.zeros_like(context)
        parts = torch.split(gradients[0], [rows.stop - rows.start for rows in ctx.chunks])
        for rows, gradient in zip(ctx.chunks, parts, strict=True):
            mine = slice(None) if context.ndim == 2 else rows
            with torch.enable_grad(), torch.autocast(device, dtype, enabled=enabled):
                here = context.detach()[mine].requires_grad_()
                features = ctx.learner.encode(rows, here)
            total[mine] += torch.autograd.grad(features, here, gradient)[0]
        return None, None, total


def random_context(tower: TextTower, tokens: int, seed: int) -> Tensor:
    """`tokens` context vectors from N(0, 0.02): float32 [tokens, width]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, tower.width, generator=generator) * CONTEXT_STD


def phrase_context(tower: TextTower, tokenizer: Tokenizer, phrase: str) -> Tensor:
    """The token embeddings of a phrase such as "a photo of a": float32 [number of tokens, width].

    Raises ValueError for a phrase without tokens.
    """
    longest = 2 * tower.context_length
    ids = tokenizer(["", phrase], context_length=longest)
    start, end = tower.end_of_text(ids).tolist()
    if end <= start:
        raise ValueError(f"near.context_init = {phrase!r} holds no tokens")
    vectors: Tensor = tower.token_embedding(ids[1, start:end].to(tower.token_embedding.weight.device))
    return vectors.detach().float().cpu()
