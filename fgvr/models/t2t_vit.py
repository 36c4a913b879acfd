"""T2T-ViT, which timm lacks: a vision transformer whose tokens are re-structured from overlapping patches.

Yuan et al., "Tokens-to-Token ViT: Training Vision Transformers from Scratch on ImageNet" (ICCV 2021), section 3 and
table 1, with Performers (Choromanski et al., ICLR 2021) as the layers between soft splits: T2T-ViT-7, -10, -12 and -14.
Importing the module registers them with timm as `fgvr_t2t_vit_7` …, with random weights only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import torch
from timm.layers import trunc_normal_
from timm.models import generate_default_cfgs
from timm.models import register_model as _register_model
from torch import Tensor, nn
from torch.nn import functional

_Builder = TypeVar("_Builder", bound=Callable[..., nn.Module])
register_model = cast("Callable[[_Builder], _Builder]", _register_model)
SPLITS: Final = ((7, 4, 2), (3, 2, 1), (3, 2, 1))
"""Side, stride and padding of the three soft splits."""
TOKEN_DIM: Final = 64
FEATURES: Final = TOKEN_DIM // 2
EPSILON: Final = 1e-8

default_cfgs = generate_default_cfgs(
    {
        f"fgvr_t2t_vit_{depth}.untrained": {
            "url": "",
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "fixed_input_size": True,
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "interpolation": "bicubic",
            "first_conv": None,
            "classifier": "head",
        }
        for depth in (7, 10, 12, 14)
    }
)


class TokenPerformer(nn.Module):
    """A transformer layer of one head with linear attention: tokens [N, T, D] → [N, T, 64].

    Attention is that of positive random features, exp(w·x − |x|²/2) / √m with m = 32 fixed orthogonal rows w of length
    √m. Where inner width differs from the outer one, values take the part of the residual.
    """

    features: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(TOKEN_DIM)
        self.kqv = nn.Linear(width, 3 * TOKEN_DIM)
        self.proj = nn.Linear(TOKEN_DIM, TOKEN_DIM)
        self.mlp = nn.Sequential(nn.Linear(TOKEN_DIM, TOKEN_DIM), nn.GELU(), nn.Linear(TOKEN_DIM, TOKEN_DIM))
        rows = torch.empty(FEATURES, TOKEN_DIM)
        nn.init.orthogonal_(rows)
        self.register_buffer("features", rows * math.sqrt(FEATURES))

    def kernel(self, tokens: Tensor) -> Tensor:
        """Positive random features [N, T, m]."""
        half_square = tokens.square().sum(dim=-1, keepdim=True) / 2
        return torch.exp(tokens @ self.features.T - half_square) / math.sqrt(FEATURES)

    def forward(self, tokens: Tensor) -> Tensor:
        """See the class."""
        # Exponents overflow in half precision.
        with torch.autocast(tokens.device.type, enabled=False):
            keys, queries, values = self.kqv(self.norm1(tokens.float())).chunk(3, dim=-1)
            keys, queries = self.kernel(keys), self.kernel(queries)
            sums = queries @ keys.sum(dim=1).unsqueeze(-1)
            found = queries @ (keys.transpose(1, 2) @ values) / (sums + EPSILON)
            mixed = values + self.proj(found)
            outcome: Tensor = mixed + self.mlp(self.norm2(mixed))
        return outcome


class Block(nn.Module):
    """A pre-norm transformer layer without biases of queries, keys and values."""

    def __init__(self, width: int, heads: int, ratio: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        inner = int(ratio * width)
        self.mlp = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [N, T, D] → the same shape."""
        images, count, width = tokens.shape
        parts = self.qkv(self.norm1(tokens)).reshape(images, count, 3, self.heads, width // self.heads)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4).unbind()
        seen = functional.scaled_dot_product_attention(queries, keys, values)
        tokens = tokens + self.proj(seen.transpose(1, 2).reshape(images, count, width))
        outcome: Tensor = tokens + self.mlp(self.norm2(tokens))
        return outcome


class T2TViT(nn.Module):
    """The network, with timm's interface: images [N, 3, S, S] → logits [N, C].

    Args:
        img_size: S, in pixels; at least 16.
        num_classes: C; 0: no classifier.
        in_chans: channels of the image.
        embed_dim: width of the deep part.
        depth: its layers.
        num_heads: its heads.
        mlp_ratio: inner width of its layers over `embed_dim`.
        drop_rate: dropout before the classifier.
    """

    position: Tensor

    def __init__(
        self,
        *,
        img_size: int = 224,
        num_classes: int = 1000,
        in_chans: int = 3,
        embed_dim: int = 256,
        depth: int = 7,
        num_heads: int = 4,
        mlp_ratio: float = 2.0,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.img_size, self.num_classes = img_size, num_classes
        self.num_features = self.embed_dim = embed_dim
        self.splits = nn.ModuleList(nn.Unfold(side, stride=stride, padding=pad) for side, stride, pad in SPLITS)
        widths = [in_chans * SPLITS[0][0] ** 2, *(TOKEN_DIM * side**2 for side, _, _ in SPLITS[1:])]
        self.layers = nn.ModuleList(map(TokenPerformer, widths[:-1]))
        self.project = nn.Linear(widths[-1], embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        side = img_size
        for size, stride, pad in SPLITS:
            side = (side + 2 * pad - size) // stride + 1
        self.register_buffer("position", sinusoids(side**2 + 1, embed_dim).unsqueeze(0))
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim)
        self.dropout = nn.Dropout(drop_rate)
        self.head = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()
        self.apply(_start)
        trunc_normal_(self.cls_token, std=0.02)

    def tokens(self, images: Tensor) -> Tensor:
        """The re-structured tokens [N, T, D]."""
        found = self.splits[0](images).transpose(1, 2)
        for layer, split in zip(self.layers, list(self.splits)[1:], strict=True):
            found = layer(found).transpose(1, 2)
            side = math.isqrt(found.shape[2])
            found = split(found.reshape(found.shape[0], found.shape[1], side, side)).transpose(1, 2)
        outcome: Tensor = self.project(found)
        return outcome

    def forward_features(self, images: Tensor) -> Tensor:
        """All tokens after the last norm, the class token first: [N, T + 1, D]."""
        if images.shape[-2:] != (self.img_size, self.img_size):
            raise ValueError(f"images of {tuple(images.shape[-2:])} pixels; the network is for {self.img_size}")
        tokens = self.tokens(images)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1) + self.position
        for block in self.blocks:
            tokens = block(tokens)
        outcome: Tensor = self.norm(tokens)
        return outcome

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:  # timm's
        """Logits of the class token, or what goes into the classifier."""
        first = self.dropout(features[:, 0])
        outcome: Tensor = first if pre_logits else self.head(first)
        return outcome

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        return self.forward_head(self.forward_features(images))

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the last layer."""
        self.num_classes = num_classes
        self.head = nn.Linear(self.embed_dim, num_classes) if num_classes else nn.Identity()

    def no_weight_decay(self) -> set[str]:
        """Weights that AdamW does not decay."""
        return {"cls_token"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:  # timm's
        """Layers by depth, for layer-wise rates."""
        return {
            "stem": r"^cls_token|^layers|^project|^splits",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))],
        }


def sinusoids(count: int, width: int) -> Tensor:
    """Fixed position codes [count, width] (Vaswani et al. 2017): sines in even places, cosines in odd ones."""
    places = torch.arange(count, dtype=torch.float64).unsqueeze(1)
    waves = torch.pow(10_000.0, -2 * (torch.arange(width, dtype=torch.float64) // 2) / width)
    angles = places * waves
    angles[:, 0::2], angles[:, 1::2] = angles[:, 0::2].sin(), angles[:, 1::2].cos()
    return angles.float()


def _start(module: nn.Module) -> None:
    """Initial weights: normal, cut at two standard deviations of 0.02; biases 0."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _built(arguments: dict[str, Any], **sizes: float) -> T2TViT:
    """The network; of timm's arguments those that name pretrained weights are refused or left out."""
    if arguments.pop("pretrained", False):
        raise ValueError("there are no pretrained weights of T2T-ViT")
    of_timm = ("pretrained_", "cache_dir")
    own = {name: value for name, value in arguments.items() if not name.startswith(of_timm)}
    made = T2TViT(**sizes, **own)  # type: ignore[arg-type]  # depth and the like are whole
    made.default_cfg = made.pretrained_cfg = arguments.get("pretrained_cfg")  # type: ignore[assignment]
    return made


@register_model
def fgvr_t2t_vit_7(**arguments: Any) -> T2TViT:
    """T2T-ViT-7: 4.3 M weights."""
    return _built(arguments, depth=7, embed_dim=256, num_heads=4, mlp_ratio=2)


@register_model
def fgvr_t2t_vit_10(**arguments: Any) -> T2TViT:
    """T2T-ViT-10: 5.9 M weights."""
    return _built(arguments, depth=10, embed_dim=256, num_heads=4, mlp_ratio=2)


@register_model
def fgvr_t2t_vit_12(**arguments: Any) -> T2TViT:
    """T2T-ViT-12: 6.9 M weights."""
    return _built(arguments, depth=12, embed_dim=256, num_heads=4, mlp_ratio=2)


@register_model
def fgvr_t2t_vit_14(**arguments: Any) -> T2TViT:
    """T2T-ViT-14: 21.5 M weights."""
    return _built(arguments, depth=14, embed_dim=384, num_heads=6, mlp_ratio=3)
