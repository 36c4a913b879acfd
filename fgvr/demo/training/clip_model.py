"""The tiny CLIP: its open_clip config, its files, and a text forward cut to the longest caption."""

import json
from pathlib import Path
from typing import Any, Final

import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast

CONTEXT_LENGTH: Final = 48
"""Tokens of a caption: 16 learned context tokens, a name, BOS and EOS fit in."""
VOCABULARY: Final = 512
EMBEDDING: Final = 128

MODEL_CONFIG: Final[dict[str, Any]] = {
    "embed_dim": EMBEDDING,
    "vision_cfg": {"image_size": 64, "layers": [1, 2, 2, 1], "width": 16, "head_width": 64},
    "text_cfg": {
        "context_length": CONTEXT_LENGTH,
        "vocab_size": VOCABULARY,
        "hf_tokenizer_name": "tokenizer beside the weights",
        "width": 128,
        "heads": 4,
        "layers": 4,
        "pool_type": "eos",
        "pad_id": 0,
        "eos_id": 2,
    },
}
PREPROCESS: Final[dict[str, Any]] = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def new_clip() -> open_clip.CLIP:
    """A CLIP with random weights (``torch.manual_seed`` decides them)."""
    text = dict(MODEL_CONFIG["text_cfg"])  # open_clip removes entries
    return open_clip.CLIP(MODEL_CONFIG["embed_dim"], MODEL_CONFIG["vision_cfg"], text)


def preprocess(images: Tensor) -> Tensor:
    """What open_clip's evaluation transform does to 64 px images: uint8 [N, 64, 64, 3] to float [N, 3, 64, 64]."""
    mean, std = (torch.tensor(PREPROCESS[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    return (images.permute(0, 3, 1, 2).float() / 255 - mean) / std


def encode_text(model: open_clip.CLIP, tokens: Tensor) -> Tensor:
    """``model.encode_text`` on sequences cut after the last EOS: exact, since attention is causal. Float [N, D]."""
    ends = (tokens == MODEL_CONFIG["text_cfg"]["eos_id"]).int().argmax(dim=1)
    length = int(ends.max()) + 1
    x = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    pooled: Tensor = x[torch.arange(len(x)), ends] @ model.text_projection
    return pooled


def save_clip(model: open_clip.CLIP, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write an open_clip ``local-dir:`` folder; weights are stored as float16."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": MODEL_CONFIG, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    weights = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in model.state_dict().items()
    }
    save_file(weights, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)
