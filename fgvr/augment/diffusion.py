"""Diffusion pipelines with a ControlNet, through diffusers: Stable Diffusion 1.5, SDXL and BLIP-Diffusion.

A picture's noise comes from its own seed on the CPU, so that it does not depend on what is generated with it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from fgvr.augment.edges import canny
from fgvr.augment.pictures import Asked, Made, made_of
from fgvr.augment.pipeline_source import (
    FIELD,
    INDEX,
    SAFETY,
    GeneratorError,
    PipelineSource,
    check_diffusers,
    find_pipeline,
    has_safety_checker,
    variant_of,
)
from fgvr.config.augment import GUIDANCE, STEPS, DiffusionModel
from fgvr.precision import Precision, held

log = logging.getLogger(__name__)


class DiffusionGenerator:
    """Implements `PictureGenerator`."""

    def __init__(self, config: DiffusionModel, pipeline: Any, device: torch.device) -> None:
        """`pipeline`: one of diffusers' three, on the device."""
        self.config, self.pipeline, self.device = config, pipeline, device
        self.size, self.square = config.size, config.pipeline == "blip"
        pipeline.set_progress_bar_config(disable=True)

    def make(self, asked: Sequence[Asked]) -> list[Made]:
        """See PictureGenerator."""
        edges = [Image.fromarray(canny(np.asarray(each.photo))) for each in asked]
        noise = [torch.Generator().manual_seed(each.seed) for each in asked]
        config, kind = self.config, self.config.pipeline
        shared: dict[str, Any] = {
            "num_inference_steps": config.steps or STEPS[kind],
            "guidance_scale": GUIDANCE[kind] if config.guidance is None else config.guidance,
            "generator": noise,
            "output_type": "np",
        }
        with torch.inference_mode():
            if kind == "blip":
                output = self._with_subjects(asked, edges, shared)
            else:
                negative = None if config.negative_prompt is None else [config.negative_prompt] * len(asked)
                output = self.pipeline(
                    [each.prompt for each in asked],
                    image=edges,
                    negative_prompt=negative,
                    controlnet_conditioning_scale=float(config.controlnet_scale),
                    height=asked[0].photo.height,
                    width=asked[0].photo.width,
                    **shared,
                )
        flagged = getattr(output, "nsfw_content_detected", None) or [False] * len(asked)
        return [
            made_of(np.asarray(image), unsafe=bool(flag)) for image, flag in zip(output.images, flagged, strict=True)
        ]

    def _with_subjects(self, asked: Sequence[Asked], edges: list[Image.Image], shared: dict[str, Any]) -> Any:
        """BLIP-Diffusion puts `a <name>` before the prompt by itself."""
        return self.pipeline(
            [each.prompt for each in asked],
            [each.subject for each in asked],
            edges,
            [each.name for each in asked],
            [each.name for each in asked],
            neg_prompt=self.config.negative_prompt or "",
            height=self.config.size,
            width=self.config.size,
            **shared,
        )


def load_diffusion(
    config: DiffusionModel, device: str | torch.device = "cpu", precision: Precision | None = None
) -> DiffusionGenerator:
    """Load the configured pipeline.

    Args:
        config: the part that names it.
        device: where it runs.
        precision: in which the table was begun; None: the device's default.

    Raises:
        GeneratorError: diffusers is not installed, or the files are not such a pipeline's.
        PrecisionError: the device does not support the precision.
    """
    check_diffusers()
    device = torch.device(device)
    dtype = torch.bfloat16 if held(precision, device) == "bf16" else torch.float32
    source = find_pipeline(config).in_files()
    try:
        pipeline = _blip(source, dtype) if config.pipeline == "blip" else _stable(source, dtype)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        # Whatever is in the files: a wrong shape, a missing part, a class that this version does not have.
        raise GeneratorError(f"{FIELD}.model: {source.model.name} cannot be loaded: {error}") from error
    return DiffusionGenerator(config, pipeline.to(device), device)


def _stable(source: PipelineSource, dtype: torch.dtype) -> Any:
    """Stable Diffusion 1.5 or SDXL."""
    from diffusers import StableDiffusionControlNetPipeline, StableDiffusionXLControlNetPipeline

    is_xl = source.config.pipeline == "sdxl"
    kind: Any = StableDiffusionXLControlNetPipeline if is_xl else StableDiffusionControlNetPipeline
    without: dict[str, Any] = {"add_watermarker": False} if is_xl else {}
    if not is_xl and not has_safety_checker(source.folder):
        log.warning("%s brings no safety checker: nobody looks for pictures that should not be", source.model.name)
        without = {SAFETY: None, "requires_safety_checker": False}
    return kind.from_pretrained(
        source.folder,
        controlnet=_controlnet(source, dtype),
        torch_dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        variant=variant_of(source.folder / "unet"),
        **without,
    )


def _controlnet(source: PipelineSource, dtype: torch.dtype) -> Any:
    from diffusers import ControlNetModel

    folder, kind = source.controlnet_folder, ControlNetModel
    return kind.from_pretrained(
        folder, torch_dtype=dtype, use_safetensors=True, local_files_only=True, variant=variant_of(folder)
    )


def _blip(source: PipelineSource, dtype: torch.dtype) -> Any:
    """BLIP-Diffusion, part by part: diffusers no longer develops it, and does not find its classes by their names."""
    from diffusers import AutoencoderKL, BlipDiffusionControlNetPipeline, PNDMScheduler, UNet2DConditionModel
    from diffusers.pipelines.deprecated.blip_diffusion.blip_image_processing import BlipImageProcessor
    from diffusers.pipelines.deprecated.blip_diffusion.modeling_blip2 import Blip2QFormerModel
    from diffusers.pipelines.deprecated.blip_diffusion.modeling_ctx_clip import ContextCLIPTextModel
    from transformers import CLIPTokenizer

    networks = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
    networks |= {"text_encoder": ContextCLIPTextModel, "qformer": Blip2QFormerModel}
    parts: dict[str, Any] = {"controlnet": _controlnet(source, dtype)}
    for name, kind in networks.items():
        folder, options = source.folder / name, {"use_safetensors": True, "local_files_only": True}
        parts[name] = kind.from_pretrained(folder, torch_dtype=dtype, variant=variant_of(folder), **options)
    for name, kind in {
        "tokenizer": CLIPTokenizer,
        "scheduler": PNDMScheduler,
        "image_processor": BlipImageProcessor,
    }.items():
        parts[name] = kind.from_pretrained(source.folder / name, local_files_only=True)
    stated = json.loads((source.folder / INDEX).read_text(encoding="utf-8"))
    more = {name: stated[name] for name in ("ctx_begin_pos", "mean", "std") if name in stated}
    return BlipDiffusionControlNetPipeline(**parts, **more)
