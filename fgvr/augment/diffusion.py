"""Diffusion pipelines with a ControlNet, through diffusers: Stable Diffusion 1.5 and SDXL.

A picture's noise comes from its own seed on the CPU, so that it does not depend on what is generated with it.
"""

from __future__ import annotations

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
    IMAGE_ENCODER,
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
        """`pipeline`: one of diffusers' two, on the device."""
        self.config, self.pipeline, self.device = config, pipeline, device
        self.size, self.square, self.sees_subjects = config.size, False, config.subject is not None
        pipeline.set_progress_bar_config(disable=True)

    def make(self, asked: Sequence[Asked]) -> list[Made]:
        """See PictureGenerator; with subjects one by one, since diffusers shows all of them to every prompt at once."""
        groups = [asked] if self.config.subject is None else [[each] for each in asked]
        return [made for group in groups for made in self._made(group)]

    def _made(self, asked: Sequence[Asked]) -> list[Made]:
        edges = [Image.fromarray(canny(np.asarray(each.photo))) for each in asked]
        noise = [torch.Generator().manual_seed(each.seed) for each in asked]
        config, kind = self.config, self.config.pipeline
        shared: dict[str, Any] = {
            "num_inference_steps": config.steps or STEPS[kind],
            "guidance_scale": GUIDANCE[kind] if config.guidance is None else config.guidance,
            "generator": noise,
            "output_type": "np",
        }
        if config.subject is not None:
            shared["ip_adapter_image"] = asked[0].subject
        with torch.inference_mode():
            output = self.pipeline(
                [each.prompt for each in asked],
                image=edges,
                negative_prompt=None if config.negative_prompt is None else [config.negative_prompt] * len(asked),
                controlnet_conditioning_scale=float(config.controlnet_scale),
                height=asked[0].photo.height,
                width=asked[0].photo.width,
                **shared,
            )
        flagged = getattr(output, "nsfw_content_detected", None) or [False] * len(asked)
        return [
            made_of(np.asarray(image), unsafe=bool(flag)) for image, flag in zip(output.images, flagged, strict=True)
        ]


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
        pipeline = _stable(source, dtype)
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
    pipeline = kind.from_pretrained(
        source.folder,
        controlnet=_controlnet(source, dtype),
        dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        variant=variant_of(source.folder / "unet"),
        **without,
    )
    if source.subject is not None:
        pipeline.load_ip_adapter(
            str(source.subject.parent),
            subfolder="",
            weight_name=source.subject.name,
            image_encoder_folder=IMAGE_ENCODER,
            local_files_only=True,
        )
        pipeline.set_ip_adapter_scale(source.config.subject_scale)
    return pipeline


def _controlnet(source: PipelineSource, dtype: torch.dtype) -> Any:
    from diffusers import ControlNetModel

    folder, kind = source.controlnet_folder, ControlNetModel
    return kind.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, local_files_only=True, variant=variant_of(folder)
    )
