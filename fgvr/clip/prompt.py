"""Context optimisation (CoOp): prompts `[V]_1 … [V]_M name.` whose context vectors are learned, all else frozen.

Zhou et al., "Learning to Prompt for Vision-Language Models" (IJCV 2022); defaults of KaiyangZhou/CoOp.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention
from torch.utils.checkpoint import checkpoint

from fgvr.clip.packing import Packing
from fgvr.clip.prompt_layout import CONTEXT, PromptLayout, Tokenizer
from fgvr.clip.text_tower import TextTower

CONTEXT_STD = 0.02


class PromptLearner(nn.Module):
    """Text features of all names as a function of the context vectors, its only parameters.

    Args:
        tower: the frozen text tower.
        layout: token ids of the prompts.
        start: initial context vectors, float [M, width].
        class_specific: a context of its own for every name ([C, M, width]) instead of a shared one ([M, width]).
    """

    def __init__(self, tower: TextTower, layout: PromptLayout, start: Tensor, class_specific: bool = False) -> None:
        super().__init__()
        names = len(layout.ids)
        self.tower = tower
        self.context = nn.Parameter(start.float().expand(names, -1, -1).clone() if class_specific else start.float())
        self.shared_prefix = 0 if class_specific else layout.shared
        self.register_buffer("ids", layout.ids, persistent=False)
        self.ids: Tensor
        self.lengths = layout.end + 1  # on the CPU, wherever the module is

    def __len__(self) -> int:
        """Number of names."""
        return len(self.ids)

    def forward(self, rows: slice = slice(None)) -> Tensor:
        """Features of the names in `rows`, L2-normalised float32 [c, dim]."""
        packing = Packing.of(self.lengths[rows] - self.shared_prefix, self.ids.device)
        begin = self.shared_prefix
        ids = packing.pack(self.ids[rows, begin : begin + packing.longest])
        prefix = None
        if self.shared_prefix:
            prefix = self._embed(self.ids[0, : self.shared_prefix], self.context)
            tokens = self.tower.token_embedding(ids)
        else:
            context = self.context if self.context.ndim == 2 else self.context[rows]
            tokens = self._embed(ids, context.expand(packing.rows, -1, -1))
        return F.normalize(self.tower.encode(tokens, packing, prefix).float(), dim=-1)

    def features(self, chunk: int, rows: slice = slice(None)) -> Tensor:
        """As `forward`, with at most `chunk` names in the tower at once, in the backward pass too.

        Activations are kept of the last chunk only: the backward pass begins there, and then runs a chunk's forward
        again and adds its share of the gradient before it goes to the next (a two-pass gradient cache, Gao et al.
        2021). Memory is that of one chunk at any number of names, and the gradient is that of the plain computation
        up to rounding.
        """
        first, last, _ = rows.indices(len(self))
        *before, final = [slice(at, min(at + chunk, last)) for at in range(first, last, chunk)]
        features = [checkpoint(self, part, use_reentrant=False, preserve_rng_state=False) for part in before]
        return torch.cat([*features, self(final)])

    def _embed(self, ids: Tensor, context: Tensor) -> Tensor:
        """Embeddings [T, width] of token ids [T] with the vectors of `context` […, width] in their places, in order."""
        learned = ids == CONTEXT
        tokens: Tensor = self.tower.token_embedding(ids.masked_fill(learned, 0))
        return tokens.masked_scatter(learned[:, None].expand_as(tokens), context.to(tokens.dtype))


def random_context(tower: TextTower, tokens: int, seed: int) -> Tensor:
    """`tokens` context vectors from N(0, 0.02): float32 [tokens, width]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, tower.width, generator=generator) * CONTEXT_STD


def phrase_context(tower: TextTower, tokenizer: Tokenizer, phrase: str) -> Tensor:
    """The token embeddings of a phrase such as "a photo of a": float32 [its tokens, width].

    Raises ValueError for a phrase without tokens.
    """
    longest = 2 * tower.context_length
    ids = tokenizer(["", phrase], context_length=longest)
    start, end = tower.end_of_text(ids).tolist()
    if end <= start:
        raise ValueError(f"near.context_init = {phrase!r} holds no tokens")
    vectors: Tensor = tower.token_embedding(ids[1, start:end].to(tower.token_embedding.weight.device))
    return vectors.detach().float().cpu()
