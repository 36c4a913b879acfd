"""CLIP's text tower on packed prompts of different lengths: token-wise work is not wasted on padding.

Car names have 9 tokens on average but 23 in the longest name: with padding, more than half of the text tower's work
would be wasted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from fgvr.errors import UserError


@dataclass(frozen=True)
class Packing:
    """Positions of the T tokens of C rows, packed [T, …] and padded [C, S, …], with S the length of the longest row.

    Attributes:
        rows: C.
        longest: S.
        place: position of each packed token among the C · S padded ones, int64 [T].
        position: of each packed token in its row, int64 [T].
        last: packed position of each row's last token, int64 [C].
    """

    rows: int
    longest: int
    place: Tensor
    position: Tensor
    last: Tensor

    @classmethod
    def of(cls, lengths: Tensor, device: torch.device | str = "cpu") -> Packing:
        """A packing of rows of at least one token; `lengths` int64 [C] on the CPU, since shapes depend on them."""
        longest = int(lengths.max())
        place = (torch.arange(longest) < lengths[:, None]).flatten().nonzero()[:, 0]
        tensors = (place, place % longest, lengths.cumsum(0) - 1)
        return cls(len(lengths), longest, *(tensor.to(device, non_blocking=True) for tensor in tensors))

    def pack(self, padded: Tensor) -> Tensor:
        """The tokens [T, …] of padded rows [C, S, …]."""
        return padded.flatten(0, 1).index_select(0, self.place)

    def pad(self, packed: Tensor) -> Tensor:
        """Padded rows [C, S, …] of tokens [T, …], with zeros after each row's last token."""
        padded = packed.new_zeros((self.rows * self.longest, *packed.shape[1:]))
        return padded.index_copy(0, self.place, packed).view(self.rows, self.longest, *packed.shape[1:])


# open_clip's text tower run from token *embeddings*, so that prompts can hold learned vectors.
#
# Exact savings over open_clip's own `encode_text`, all due to causal attention with pooling at the end-of-text token:
# tokens after it are never computed; the prefix that all prompts share (start token and context) is computed once
# instead of per name; everything after the last attention is computed for the pooled token only.

KeysValues = tuple[Tensor, Tensor]  # of one layer; each [P, heads, width/heads]


class UnsupportedTextTowerError(UserError, ValueError):
    """Prompts cannot be learned for this model; the message says what its text tower does differently."""


@dataclass(frozen=True)
class TextTower:
    """The parts of a causal open_clip text tower; shares its (frozen) weights with the model.

    Attributes:
        token_embedding: vocabulary × width.
        positional_embedding: context length × width.
        blocks: residual attention blocks, first to last.
        final_norm: norm before the projection.
        projection: width × dim matrix, a linear layer, or None.
        pool: `argmax` (end of text has the highest id) or `eos` (first occurrence of `eos_id`).
        eos_id: end-of-text token; not used for `argmax`.
    """

    token_embedding: nn.Embedding
    positional_embedding: Tensor
    blocks: Sequence[Any]
    final_norm: nn.Module
    projection: Tensor | nn.Linear | None
    pool: Literal["argmax", "eos"]
    eos_id: int

    @classmethod
    def of(cls, model: nn.Module) -> TextTower:
        """The text tower of an open_clip `CLIP` or `CustomTextCLIP`; raises UnsupportedTextTowerError."""
        tower: Any = getattr(model, "text", model)
        for attribute in ("token_embedding", "positional_embedding", "transformer", "ln_final"):
            if not hasattr(tower, attribute):
                raise UnsupportedTextTowerError(f"{type(tower).__name__} is no open_clip text transformer")
        pool = getattr(tower, "text_pool_type", None) or tower.pool_type
        if pool not in ("argmax", "eos"):
            raise UnsupportedTextTowerError(f"its text is pooled by {pool!r}, not at the end-of-text token")
        if tower.attn_mask is None or getattr(tower, "cls_emb", None) is not None:
            raise UnsupportedTextTowerError("its text attention is not plainly causal")
        blocks = list(tower.transformer.resblocks)
        if not all(isinstance(getattr(block, "attn", None), nn.MultiheadAttention) for block in blocks):
            raise UnsupportedTextTowerError("its text blocks are not open_clip's standard attention blocks")
        return cls(
            token_embedding=tower.token_embedding,
            positional_embedding=tower.positional_embedding,
            blocks=blocks,
            final_norm=tower.ln_final,
            projection=tower.text_projection,
            pool=pool,
            eos_id=int(getattr(tower, "text_eos_id", getattr(tower, "eos_id", 0))),
        )

    @property
    def context_length(self) -> int:
        """Most tokens per prompt."""
        return int(self.positional_embedding.shape[0])

    @property
    def width(self) -> int:
        """Length of a token's embedding."""
        return int(self.positional_embedding.shape[1])

    def end_of_text(self, ids: Tensor) -> Tensor:
        """Position of the pooled token in rows of token ids int64 [C, L]: int64 [C]."""
        return ids.argmax(dim=1) if self.pool == "argmax" else (ids == self.eos_id).int().argmax(dim=1)

    def encode_ids(self, ids: Tensor) -> Tensor:
        """Text features of tokenised texts int64 [C, L], not normalised: [C, dim]; as open_clip's `encode_text`."""
        packing = Packing.of(self.end_of_text(ids).cpu() + 1, ids.device)
        return self.encode(self.token_embedding(packing.pack(ids[:, : packing.longest])), packing)

    def encode(self, tokens: Tensor, packing: Packing, prefix: Tensor | None = None) -> Tensor:
        """Text features of embedded prompts, not normalised: [C, dim].

        Args:
            tokens: embeddings without positions, packed float [T, width]; each prompt ends with its end-of-text token.
            packing: which tokens belong to which prompt.
            prefix: embeddings [P, width] that precede the tokens of every prompt.
        """
        past = self._prefix_keys_values(prefix) if prefix is not None else [None] * len(self.blocks)
        offset = 0 if prefix is None else len(prefix)
        x = tokens + self.positional_embedding[offset + packing.position]
        for number, (block, keys_values) in enumerate(zip(self.blocks, past, strict=True), 1):
            x, _ = _run_block(block, x, packing, keys_values, pooled=number == len(self.blocks))
        pooled: Tensor = self.final_norm(x)
        if self.projection is None:
            return pooled
        if isinstance(self.projection, nn.Linear):
            return F.linear(pooled, self.projection.weight, self.projection.bias)
        return pooled @ self.projection

    def _prefix_keys_values(self, prefix: Tensor) -> list[KeysValues | None]:
        """Keys and values of the shared prefix in every block; causal attention keeps them the same for all prompts."""
        x = prefix + self.positional_embedding[: len(prefix)]
        packing = Packing.of(torch.tensor([len(prefix)]), prefix.device)
        past: list[KeysValues | None] = []
        for block in self.blocks:
            x, keys_values = _run_block(block, x, packing, None)
            past.append(keys_values)
        return past


def _run_block(
    block: Any, x: Tensor, packing: Packing, past: KeysValues | None, *, pooled: bool = False
) -> tuple[Tensor, KeysValues]:
    """open_clip's ResidualAttentionBlock on packed tokens [T, width] that also attend to `past`.

    Returns:
        The block's output, [T, width] or, if `pooled`, only for each prompt's last token: [C, width].
        Also the keys and values of the first prompt.
    """
    attention, width = block.attn, x.shape[1]
    heads = attention.num_heads
    projected = F.linear(block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
    queries, keys, values = packing.pad(projected.view(len(x), 3, heads, width // heads)).unbind(dim=2)
    attended = packing.pack(_causal_attention(queries, keys, values, past)).reshape(len(x), width)
    if pooled:
        x, attended = x.index_select(0, packing.last), attended.index_select(0, packing.last)
    x = x + block.ls_1(attention.out_proj(attended))
    return x + block.ls_2(block.mlp(block.ln_2(x))), (keys[0], values[0])


def _causal_attention(queries: Tensor, keys: Tensor, values: Tensor, past: KeysValues | None) -> Tensor:
    """Softmax attention of [C, S, heads, d] tensors; all queries attend to `past`. Result [C, S, heads, d].

    Written out, so that `past` stays one matrix for all C prompts instead of C copies.
    """
    length, scale = queries.shape[1], 1.0 / math.sqrt(queries.shape[-1])
    scores = torch.einsum("cshd,cthd->chst", queries * scale, keys)
    future = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu(1)
    scores = scores.masked_fill(future, -torch.inf)
    if past is None:
        return torch.einsum("chst,cthd->cshd", scores.float().softmax(dim=-1).to(values.dtype), values)
    past_keys, past_values = past
    past_scores = torch.einsum("cshd,phd->chsp", queries * scale, past_keys)
    share = torch.cat([past_scores, scores], dim=-1).float().softmax(dim=-1).to(values.dtype)
    own = torch.einsum("chst,cthd->cshd", share[..., len(past_keys) :], values)
    return own + torch.einsum("chsp,phd->cshd", share[..., : len(past_keys)], past_values)
