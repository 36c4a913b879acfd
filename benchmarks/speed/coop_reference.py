"""CLIP's two towers in plain PyTorch for the benchmarks, and the original CoOp step on them.

Structure and sizes are those of open_clip's ViT-B/16 (OpenAI): pre-norm blocks, QuickGELU, causal text attention,
pooling at the end-of-text token. Weights are random, since they affect neither time nor memory. Needs only torch.
"""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

CONTEXT_LENGTH, VOCABULARY, DIM = 77, 49_408, 512
START, STOP, END = 49_406, 269, 49_407  # start of text, full stop, end of text


class QuickGELU(nn.Module):
    """x · σ(1.702 x), as the OpenAI weights were trained."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """A pre-norm residual attention block, with the names of open_clip's."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        parts = OrderedDict(c_fc=nn.Linear(width, 4 * width), gelu=QuickGELU(), c_proj=nn.Linear(4 * width, width))
        self.mlp = nn.Sequential(parts)
        self.ls_1, self.ls_2 = nn.Identity(), nn.Identity()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """See the class."""
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        mixed: Tensor = x + self.mlp(self.ln_2(x))
        return mixed


class TextEncoder(nn.Module):
    """ViT-B/16's text tower: 12 blocks, 512 wide, 8 heads."""

    def __init__(self, width: int = 512, layers: int = 12) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(VOCABULARY, width)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        self.positional_embedding = nn.Parameter(torch.randn(CONTEXT_LENGTH, width) * 0.01)
        self.transformer = SimpleNamespace(resblocks=None)
        self.blocks = nn.ModuleList(Block(width, width // 64) for _ in range(layers))
        self.transformer.resblocks = self.blocks
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, DIM) * width**-0.5)
        self.register_buffer("attn_mask", torch.full((CONTEXT_LENGTH, CONTEXT_LENGTH), -torch.inf).triu(1))
        self.pool_type = "argmax"

    def forward(self, prompts: Tensor, end: Tensor) -> Tensor:
        """Embedded prompts [C, 77, width] as features [C, 512]."""
        x = prompts + self.positional_embedding
        for block in self.blocks:
            x = block(x, self.attn_mask)
        features: Tensor = self.ln_final(x)[torch.arange(len(x), device=x.device), end] @ self.text_projection
        return features


class ImageEncoder(nn.Module):
    """CLIP's image tower for 224² pixels; as it stands that of ViT-B/16, with (1024, 24, 14, 768) that of L/14."""

    def __init__(self, width: int = 768, layers: int = 12, patch: int = 16, dim: int = DIM) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width) * width**-0.5)
        self.positional_embedding = nn.Parameter(torch.randn((224 // patch) ** 2 + 1, width) * width**-0.5)
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width, width // 64) for _ in range(layers))
        self.projection = nn.Parameter(torch.randn(width, dim) * width**-0.5)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [N, 3, 224, 224] as features [N, dim]."""
        patches = self.patches(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(patches), 1, -1), patches], dim=1)
        x = self.ln_pre(x + self.positional_embedding)
        for block in self.blocks:
            x = block(x)
        features: Tensor = self.ln_post(x[:, 0]) @ self.projection
        return features


class OriginalPrompts(nn.Module):
    """CoOp's prompts: all tokens embedded once, the context put between the start token and the rest at every step."""

    def __init__(self, encoder: TextEncoder, ids: Tensor, end: Tensor, context: Tensor) -> None:
        super().__init__()
        self.encoder, self.end, self.context = encoder, end, nn.Parameter(context.clone())
        embedded = encoder.token_embedding(F.pad(ids.clamp(min=0), (0, CONTEXT_LENGTH - ids.shape[1])))
        self.before, self.behind = embedded[:, :1], embedded[:, 1 + len(context) :]

    def forward(self) -> Tensor:
        """Features of all names, L2-normalised fp32 [C, 512], in one graph."""
        context = self.context.expand(len(self.before), -1, -1)
        prompts = torch.cat([self.before, context, self.behind], dim=1)
        return F.normalize(self.encoder(prompts, self.end).float(), dim=-1)
