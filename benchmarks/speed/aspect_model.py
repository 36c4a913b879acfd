"""A random InternVL of 12 million parameters with the real one's 256 image tokens, for speed without any download."""

from __future__ import annotations

from pathlib import Path

import torch

SIDE, PATCH, IMAGE_TOKENS = 448, 14, 256


def build_model(folder: Path, tokenizer_of: Path) -> int:
    """Write the checkpoint in bfloat16 with the tokenizer in `tokenizer_of`; returns its number of parameters."""
    from transformers import (
        AutoConfig,
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
        InternVLVisionConfig,
        PreTrainedTokenizerFast,
    )

    from benchmarks.demo_models.mllm_model import CHAT_TEMPLATE

    torch.manual_seed(0)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_of)
    vision = InternVLVisionConfig(
        hidden_size=192,
        num_hidden_layers=6,
        num_attention_heads=6,
        intermediate_size=768,
        image_size=SIDE,
        patch_size=PATCH,
        attention_bias=True,
        layer_scale_init_value=1.0,
        initializer_range=0.05,
    )
    text = AutoConfig.for_model(
        "qwen2",
        hidden_size=320,
        num_hidden_layers=6,
        num_attention_heads=10,
        num_key_value_heads=5,
        intermediate_size=1088,
        vocab_size=len(tokenizer),
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.1,  # large enough that images and questions change the answer
    )
    config = InternVLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=IMAGE_TOKENS,
        tie_word_embeddings=True,
    )
    model = InternVLForConditionalGeneration(config)
    torch.nn.init.trunc_normal_(model.model.vision_tower.embeddings.position_embeddings, std=0.1)
    model.to(torch.bfloat16).save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    images = GotOcr2ImageProcessor(crop_to_patches=False, min_patches=1, max_patches=1, size=size)
    videos = InternVLVideoProcessor(size=size)
    processor = InternVLProcessor(images, tokenizer, videos, image_seq_length=IMAGE_TOKENS, chat_template=CHAT_TEMPLATE)
    processor.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())
