"""Random checkpoints whose images take more or fewer tokens by their shape: tiles, or a grid of their own."""

from pathlib import Path
from typing import Any

import torch
from tiny_checkpoints import (
    INTERNVL_TEMPLATE,
    LLAVA_TEMPLATE,
    build_internvl,
    llava_names_of_vllm,
    text_config,
    tokenizer,
)
from transformers import (
    GotOcr2ImageProcessor,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

QWEN_TEMPLATE = INTERNVL_TEMPLATE.replace("<IMG_CONTEXT>\n", "<|vision_start|><|image_pad|><|vision_end|>")


def build_tiled_internvl(folder: Path) -> Path:
    """InternVL with dynamic preprocessing: 2 to 4 tiles of 64 px and a thumbnail, 16 tokens each."""
    build_internvl(folder)
    old = InternVLProcessor.from_pretrained(folder)
    side = {"height": 64, "width": 64}
    images = GotOcr2ImageProcessor(size=side, crop_to_patches=True, min_patches=1, max_patches=4)
    videos = InternVLVideoProcessor(size=side)
    InternVLProcessor(
        images, old.tokenizer, videos, image_seq_length=16, chat_template=INTERNVL_TEMPLATE
    ).save_pretrained(folder)
    return folder


def build_llava_next(folder: Path) -> Path:
    """LLaVA-NeXT: the grid of 64 px tiles that fits an image best, unpadded, with a token at each row's end."""
    torch.manual_seed(3)
    words = tokenizer(["<s>", "</s>", "<image>"], bos="<s>", eos_token="</s>", pad_token="</s>")
    grids = [[64, 128], [128, 64], [128, 128], [64, 192], [192, 64]]
    side = {"height": 64, "width": 64}
    LlavaNextProcessor(
        LlavaNextImageProcessor(size={"shortest_edge": 64}, crop_size=side, image_grid_pinpoints=grids),
        words,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    ).save_pretrained(folder)
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 64,
        "patch_size": 16,
        "projection_dim": 64,
        "initializer_range": 0.5,
    }
    config = LlavaNextConfig(
        vision_config=vision,
        text_config=text_config(len(words), words.eos_token_id),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=grids,
        vision_feature_select_strategy="default",
        vision_feature_layer=-2,
    )
    model = LlavaNextForConditionalGeneration(config).eval()
    torch.nn.init.normal_(model.model.image_newline, std=0.2)
    model.save_pretrained(folder)
    llava_names_of_vllm(folder)
    return folder


def build_qwen2_vl(folder: Path) -> Path:
    """Qwen2-VL: the image at its own size, a token for 16 × 16 px, and M-RoPE: positions in time, height and width."""
    torch.manual_seed(4)
    special = ["<|im_end|>", "<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    words = tokenizer(special, eos_token="<|im_end|>", pad_token="<|im_end|>")
    pixels: dict[str, Any] = {
        "patch_size": 8,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "size": {"shortest_edge": 32 * 32, "longest_edge": 128 * 128},
    }
    Qwen2VLProcessor(
        Qwen2VLImageProcessor(**pixels), words, Qwen2VLVideoProcessor(**pixels), chat_template=QWEN_TEMPLATE
    ).save_pretrained(folder)
    text = text_config(len(words), words.eos_token_id) | {
        "model_type": "qwen2_vl_text",
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 6, 6]},
    }
    number = words.convert_tokens_to_ids
    config = Qwen2VLConfig(
        vision_config={
            "depth": 2,
            "embed_dim": 64,
            "hidden_size": 64,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 8,
            "initializer_range": 0.2,
        },
        text_config=text,
        image_token_id=number("<|image_pad|>"),
        video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"),
        vision_end_token_id=number("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    Qwen2VLForConditionalGeneration(config).eval().save_pretrained(folder)
    return folder
