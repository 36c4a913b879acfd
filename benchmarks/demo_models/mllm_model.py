"""The tiny InternVL: its configuration, its files, and the first training stage, that of its vision tower."""

from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn
from transformers import (
    AutoConfig,
    GenerationConfig,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    InternVLVisionConfig,
    PreTrainedTokenizerFast,
)

from benchmarks.demo_models.drawings import AttributeHeads, Drawings, flip_some
from benchmarks.demo_models.schedule import Learner, batches
from fgvr.demo.scene import HABITATS
from fgvr.demo.species import SPECIES

IMAGE_TOKENS: Final = 16
"""Tokens per image: 64 patches of 8 px, joined in groups of four by pixel shuffle."""
VISION_WIDTH: Final = 128
TEXT_WIDTH: Final = 128
MEAN: Final = (0.5, 0.5, 0.5)
STD: Final = (0.25, 0.25, 0.25)

CHAT_TEMPLATE: Final = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}
{{ '<IMG_CONTEXT>\\n' }}
{%- elif part['type'] == 'video' -%}
{{ '<video>\\n' }}
{%- elif part['type'] == 'text' -%}
{{ part['text'] }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n' }}
{%- endif -%}
"""


def new_mllm(tokenizer: PreTrainedTokenizerFast) -> InternVLForConditionalGeneration:
    """An InternVL with random weights (``torch.manual_seed`` decides them), float32, eager attention."""
    vision = InternVLVisionConfig(
        hidden_size=VISION_WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=4 * VISION_WIDTH,
        image_size=64,
        patch_size=8,
        attention_bias=True,
        layer_scale_init_value=1.0,
    )
    text = AutoConfig.for_model(
        "qwen2",
        hidden_size=TEXT_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=3 * TEXT_WIDTH,
        vocab_size=len(tokenizer),
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = InternVLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=IMAGE_TOKENS,
        downsample_ratio=0.5,
        tie_word_embeddings=True,
    )
    config._attn_implementation = "eager"  # on a CPU the backward pass of bf16 SDPA is slow
    model = InternVLForConditionalGeneration(config)
    # transformers initialises position embeddings with zeros, which a short training run hardly changes.
    nn.init.trunc_normal_(model.model.vision_tower.embeddings.position_embeddings, std=0.02)
    return model


def new_processor(tokenizer: PreTrainedTokenizerFast) -> InternVLProcessor:
    """Image, video and text processing; images are resized to one 64 px tile."""
    pixels = {"image_mean": list(MEAN), "image_std": list(STD), "size": {"height": 64, "width": 64}}
    images = GotOcr2ImageProcessor(crop_to_patches=False, min_patches=1, max_patches=1, **pixels)
    videos = InternVLVideoProcessor(**pixels)
    return InternVLProcessor(images, tokenizer, videos, image_seq_length=IMAGE_TOKENS, chat_template=CHAT_TEMPLATE)


def pixel_values(images: torch.Tensor) -> torch.Tensor:
    """The image processor's transform for 64 px images: uint8 [N, 64, 64, 3] to float [N, 3, 64, 64]."""
    mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
    return (images.permute(0, 3, 1, 2).float() / 255 - mean) / std


def image_features(model: InternVLForConditionalGeneration, pixels: torch.Tensor) -> torch.Tensor:
    """Pixel-shuffled features of the vision tower, before the projector: [N, 16, 4 × width]."""
    patches = model.model.vision_tower(pixel_values=pixels).last_hidden_state[:, 1:]
    count, _, width = patches.shape
    shuffled: torch.Tensor = model.model.pixel_shuffle(patches.reshape(count, 8, 8, width), scale_factor=0.5)
    return shuffled.reshape(count, IMAGE_TOKENS, 4 * width)


def save_mllm(model: InternVLForConditionalGeneration, processor: InternVLProcessor, folder: Path) -> None:
    """Write the checkpoint in bfloat16 with processor, tokenizer, chat template and generation config."""
    folder.mkdir(parents=True, exist_ok=True)
    model = model.to(torch.bfloat16)
    tokenizer = processor.tokenizer
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, max_new_tokens=16, do_sample=False
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


BATCH = 256


class VisionHeads(nn.Module):
    """Linear classifiers on the mean image token; thrown away after this stage."""

    def __init__(self) -> None:
        super().__init__()
        width = 4 * VISION_WIDTH
        self.norm = nn.LayerNorm(width)
        self.attributes = AttributeHeads(width)
        self.species = nn.Linear(width, len(SPECIES))
        self.habitat = nn.Linear(width, len(HABITATS))

    def loss(
        self, tokens: torch.Tensor, looks: torch.Tensor, species: torch.Tensor, habitat: torch.Tensor
    ) -> torch.Tensor:
        """Sum of the three kinds of cross-entropy; birds of no species (−1) do not count in theirs."""
        mean = self.norm(tokens).mean(dim=1)
        named = nn.functional.cross_entropy(self.species(mean).float(), species, ignore_index=-1)
        where = nn.functional.cross_entropy(self.habitat(mean).float(), habitat)
        return 4 * self.attributes.loss(mean, looks) + 0.3 * named + 0.2 * where


def train_vision(model: InternVLForConditionalGeneration, drawings: Drawings, *, steps: int, seed: int) -> VisionHeads:
    """Train the vision tower in place; returns the heads, which tell how well it sees."""
    rng = np.random.default_rng([seed, 1])
    tower, heads = model.model.vision_tower, VisionHeads()
    learner = Learner("mllm vision", (tower, heads), 1.2e-3, steps=steps, warm_up=200)
    images = torch.from_numpy(drawings.images)
    targets = [torch.from_numpy(column) for column in (drawings.looks, drawings.species, drawings.habitat)]
    for rows in batches(len(drawings), BATCH, steps, rng):
        with torch.autocast("cpu", torch.bfloat16):
            tokens = image_features(model, pixel_values(flip_some(images[rows], rng)))
            loss = heads.loss(tokens, *(column[rows] for column in targets))
        learner.step(loss)
    return heads
