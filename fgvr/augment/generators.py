"""From a config to a generator, and what identifies it."""

from __future__ import annotations

from typing import Any

from fgvr.augment.pictures import PictureGenerator
from fgvr.config.augment import GUIDANCE, STEPS, DiffusionModel, DrawnBirds
from fgvr.precision import Precision

GeneratorConfig = DiffusionModel | DrawnBirds
"""The config part that names a generator."""

MAKING = 1
"""Increase it when the same settings, photos and seeds would give other pictures."""


def pinned_generator(config: GeneratorConfig) -> GeneratorConfig:
    """The same, with hub names pinned to their current commits; raises GeneratorError where it does not exist."""
    from fgvr.augment.pipeline_source import pinned

    return pinned(config) if isinstance(config, DiffusionModel) else config


def check_generator(config: GeneratorConfig) -> None:
    """Find it without loading it; raises GeneratorError where it does not exist or cannot be used."""
    if isinstance(config, DiffusionModel):
        from fgvr.augment.pipeline_source import check_diffusers, find_pipeline

        check_diffusers()
        find_pipeline(config)


def generator_identity(config: GeneratorConfig) -> dict[str, Any]:
    """What decides its pictures, in fingerprints: models by content or commit, settings as they are resolved."""
    if not isinstance(config, DiffusionModel):
        return config.deciding()
    from fgvr.augment.pipeline_source import find_pipeline

    kind = config.pipeline
    named = {"model", "revision", "controlnet", "controlnet_revision", "subject"}
    named |= {"subject_scale"} if config.subject is None else set()
    settings = {name: value for name, value in config.deciding().items() if name not in named}
    resolved = {
        "steps": config.steps or STEPS[kind],
        "guidance": GUIDANCE[kind] if config.guidance is None else config.guidance,
    }
    return settings | resolved | find_pipeline(config).identity()


def load_generator(
    config: GeneratorConfig, device: str = "cpu", precision: Precision | None = None
) -> PictureGenerator:
    """Load it on a device, in the precision in which a table was begun; raises GeneratorError."""
    if isinstance(config, DiffusionModel):
        from fgvr.augment.diffusion import load_diffusion

        return load_diffusion(config, device, precision)
    from fgvr.augment.drawn import BirdDrawer

    return BirdDrawer(config)
