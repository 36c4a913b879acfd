"""Diffusion pipelines of a few thousand random weights each, saved as real ones are: folders of safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

SIDE = 64
TEXTS = ["a photo of a finch", "a photo of a heron on a branch", "geometric shapes", "a black photo"]
WIDTH, CONTEXT = 16, 77


def tokenizer(folder: Path) -> Any:
    """A tokenizer of a few hundred tokens, fitted to the texts above."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    bpe = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    bpe.train_from_iterator(TEXTS, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    bpe.model.save(str(folder))
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=CONTEXT)


def text_config(**more: Any) -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=1000,
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        **more,
    )


def networks(cross: int = WIDTH, **more: Any) -> dict[str, Any]:
    """U-Net, ControlNet and VAE with random weights."""
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel

    shape = {
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "cross_attention_dim": cross,
        "attention_head_dim": 4,
        "norm_num_groups": 4,
        **more,
    }
    unet = UNet2DConditionModel(
        sample_size=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **shape,
    )
    controlnet = ControlNetModel(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        conditioning_embedding_out_channels=(4, 8),
        **shape,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
    )
    return {"unet": unet, "controlnet": controlnet, "vae": vae}


def sd15(folder: Path) -> Path:
    """A Stable Diffusion 1.5 with a ControlNet inside its folder."""
    from diffusers import DDIMScheduler, StableDiffusionControlNetPipeline
    from transformers import CLIPTextModel

    torch.manual_seed(0)
    StableDiffusionControlNetPipeline(
        **networks(),
        text_encoder=CLIPTextModel(text_config()),
        tokenizer=tokenizer(folder.with_name(f"{folder.name}-tokenizer")),
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def sdxl(folder: Path) -> Path:
    """An SDXL with two text encoders and a ControlNet."""
    from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionXLControlNetPipeline
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    more = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + WIDTH,
        "transformer_layers_per_block": (1, 1),
    }
    words = tokenizer(folder.with_name(f"{folder.name}-tokenizer"))
    StableDiffusionXLControlNetPipeline(
        **networks(2 * WIDTH, **more),
        text_encoder=CLIPTextModel(text_config()),
        text_encoder_2=CLIPTextModelWithProjection(text_config(projection_dim=WIDTH)),
        tokenizer=words,
        tokenizer_2=words,
        scheduler=EulerAncestralDiscreteScheduler(timestep_spacing="trailing"),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


def ip_adapter(folder: Path, unet: Any, *, width: int = 8) -> Path:
    """An IP-Adapter of this U-Net: the file of its weights, with the image encoder in the folder beside it."""
    from diffusers.models.attention_processor import IPAdapterAttnProcessor
    from diffusers.models.embeddings import ImageProjection
    from safetensors.torch import save_file
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(1)
    cross = unet.config.cross_attention_dim
    projection = ImageProjection(image_embed_dim=width, cross_attention_dim=cross, num_image_text_embeds=4)
    names = {"image_embeds.weight": "proj.weight", "image_embeds.bias": "proj.bias"}
    weights = {f"image_proj.{names.get(name, name)}": value for name, value in projection.state_dict().items()}
    number = 1  # of the processors only every second one looks at the prompt
    for name in unet.attn_processors:
        if name.endswith("attn1.processor"):
            continue
        block = name.split(".")[0 if name.startswith("mid") else 1]
        hidden = {"mid_block": 16, "1": 16, "0": 16}[block]
        of_block = IPAdapterAttnProcessor(hidden, cross, num_tokens=(4,), scale=1.0).state_dict()
        for letter in ("k", "v"):
            weights[f"ip_adapter.{number}.to_{letter}_ip.weight"] = of_block[f"to_{letter}_ip.0.weight"]
        number += 2
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / "ip-adapter.safetensors")
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
        projection_dim=width,
    )
    CLIPVisionModelWithProjection(vision).save_pretrained(folder / "image_encoder")
    return folder / "ip-adapter.safetensors"
