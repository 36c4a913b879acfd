"""Prompts of different lengths one behind the other: work that is done token by token sees no padding.

A label space of car names has 9 tokens a name on average and 23 in the longest: padded to it, more than half of the
text tower's work would be for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """Where the T tokens of C rows lie, packed [T, …] and padded [C, S, …] with S the longest row.

    Attributes:
        rows: C.
        longest: S.
        place: of each packed token among the C · S padded ones, int64 [T].
        position: of each packed token in its row, int64 [T].
        last: packed place of each row's last token, int64 [C].
    """

    rows: int
    longest: int
    place: Tensor
    position: Tensor
    last: Tensor

    @classmethod
    def of(cls, lengths: Tensor, device: torch.device | str = "cpu") -> Packing:
        """Of rows of at least one token each; `lengths` int64 [C] on the CPU, since shapes follow from them."""
        longest = int(lengths.max())
        place = (torch.arange(longest) < lengths[:, None]).flatten().nonzero()[:, 0]
        tensors = (place, place % longest, lengths.cumsum(0) - 1)
        return cls(len(lengths), longest, *(tensor.to(device, non_blocking=True) for tensor in tensors))

    def pack(self, padded: Tensor) -> Tensor:
        """The tokens [T, …] of padded rows [C, S, …]."""
        return padded.flatten(0, 1).index_select(0, self.place)

    def pad(self, packed: Tensor) -> Tensor:
        """Padded rows [C, S, …] of tokens [T, …], zeros behind each row's last token."""
        padded = packed.new_zeros((self.rows * self.longest, *packed.shape[1:]))
        return padded.index_copy(0, self.place, packed).view(self.rows, self.longest, *packed.shape[1:])
