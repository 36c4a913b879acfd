"""Generated photos of rare names, from which students learn beside the real ones (SaSPA; docs/augment.md)."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from fgvr.config.base import RUNTIME_ONLY, Part, Workers
from fgvr.config.texts import NameTemplate, Prompt
from fgvr.config.tree import Tuned

MOST_LETTERS: Final = 150
"""Longest prompt, with the name in it (SaSPA); the text towers of diffusion models read 77 tokens."""
PROMPTS: Final = (
    "a photo of a {}",
    "a close-up photo of a {}",
    "a photo of a {} from the side",
    "a photo of a {} in its usual surroundings",
    "a photo of a {} in bright sunlight",
    "a photo of a {} on a cloudy day",
    "a photo of a {} before a blurred background",
)
NEGATIVES: Final = (
    *("a photo of an object", "a scene", "geometric shapes"),
    *("a photo", "an image", "a black photo"),
)
"""Texts that a failed picture resembles more than the basic prompt: SaSPA's six."""
STEPS: Final = {"sd15": 30, "sdxl": 2}
GUIDANCE: Final = {"sd15": 7.5, "sdxl": 0.0}
"""SaSPA's settings; those of SDXL are for SDXL-turbo, which is distilled for few steps without guidance."""


def _short(text: str) -> str:
    if len(text) > MOST_LETTERS:
        raise ValueError(f"has {len(text)} letters: at most {MOST_LETTERS}, since text towers cut off what is longer")
    return text


class DiffusionModel(Part):
    """A diffusion model with a ControlNet that follows the edges of a photo; needs the extra `augment` (diffusers)."""

    kind: Literal["diffusers"] = "diffusers"
    pipeline: Literal["sd15", "sdxl"] = "sd15"
    """`sd15`: Stable Diffusion 1.5 and its relatives; `sdxl`: SDXL, with the settings of SDXL-turbo."""
    model: Tuned[str | None] = None
    """Folder of a diffusers pipeline (model_index.json; local or s3://), or a hub name (hf-hub:stabilityai/sdxl-turbo).
    Only .safetensors are loaded."""
    revision: str | None = None
    """Revision of a hub model; null: the newest one when the run starts, whose commit is recorded."""
    controlnet: Tuned[str | None] = None
    """Folder or hub name of a ControlNet for Canny edges (hf-hub:lllyasviel/sd-controlnet-canny); null: the folder
    `controlnet` inside `model`."""
    controlnet_revision: str | None = None
    """Revision of a ControlNet on the hub."""
    steps: int | None = Field(default=None, ge=1)
    """Denoising steps; null: 30, and 2 for `sdxl`. A ControlNet for SDXL itself needs 30, too."""
    guidance: float | None = Field(default=None, ge=0)
    """Classifier-free guidance; null: 7.5, and 0 for `sdxl`."""
    controlnet_scale: float = Field(default=0.75, ge=0)
    """How strictly the edges are followed (SaSPA: 0.75)."""
    subject: str | None = None
    """Weights of an IP-Adapter for `model` (…/ip-adapter_sd15.safetensors; local), with its folder `image_encoder`
    beside it: pictures then also follow another photo of the same name, one by one. null: edges and prompt alone."""
    subject_scale: float = Field(default=0.5, ge=0)
    """How strictly that photo is followed; has no effect without `subject`."""
    negative_prompt: Prompt | None = None
    """What a picture should not show; has no effect without guidance."""
    size: int = Field(default=512, ge=64, multiple_of=64)
    """Shorter side of a picture in pixels, a multiple of 64; the other side keeps the photo's shape, up to 2:1."""


class DrawnBirds(Part):
    """The drawing program of the field guide, for tests, the demo and measurements: it draws a bird of the name."""

    kind: Literal["drawn"] = "drawn"
    species: Literal["same", "other"] = "same"
    """`other`: a bird of another genus than the name says, by which the filters are measured."""
    difficulty: float = Field(default=2, ge=0)
    """How far pose, light and background vary, as in `ingest.source.difficulty`."""


Generator = Annotated[DiffusionModel | DrawnBirds, Field(discriminator="kind")]


class Augment(Part):
    """augment: pictures of rare names, generated from the edges of their photos, filtered, and learned by students in
    place of these photos (docs/augment.md).
    """

    alpha: Tuned[float] = Field(default=0, ge=0, le=1)
    """Probability with which a student sees a kept picture in place of its photo, for names with fewer than `below`
    photos (SaSPA: 0.4, CUB 0.1); 0: none are generated."""
    generator: Tuned[Generator] = DiffusionModel()
    """What makes the pictures."""
    below: Tuned[int] = Field(default=20, ge=1)
    """A name is rare, and gets pictures, if fewer than so many photos teach it."""
    per_image: Tuned[int] = Field(default=2, ge=1, le=100)
    """Pictures per photo of a rare name."""
    max_per_source: int = Field(default=2, ge=1)
    """Most kept pictures of one photo that students see."""
    prompts: tuple[Annotated[NameTemplate, AfterValidator(_short)], ...] = Field(default=PROMPTS, min_length=1)
    """Prompts with {} for the name, one of them at random per picture; together at most 150 letters."""
    basic_prompt: Tuned[Prompt] = "a photo of a {}"
    """A kept picture is nearer to this text (CLIP's cosine) than to each of `negatives`; {} is the picture's name.
    Where CLIP does not know the names, say what all are: "a photo of a bird"."""
    negatives: tuple[Prompt, ...] = NEGATIVES
    """Texts that failed pictures resemble; none: no such filter."""
    top_k: Tuned[int | None] = Field(default=10, ge=1)
    """A kept picture's name is among so many best names of the classifier `ranked_by` (SaSPA: 10, for 100 to 200
    names). Of few names take fewer: with 10 of 10 nothing is rejected. null: no such filter."""
    ranked_by: Literal["run", "zero_shot"] = "run"
    """The classifier of `top_k`: this run's model of the students' names (near, heads or prototypes; of true classes
    the prototypes of their photos), or CLIP without training, which stands in where vectors came from a file."""
    batch_images: Annotated[int, RUNTIME_ONLY] = Field(default=4, ge=1)
    """Pictures that are generated together. Lower it when the GPU's memory runs out; it changes results by rounding
    only."""
    seed: int = Field(default=0, ge=0)
    """Random seed of prompts and pictures; each picture's own seed is in the table."""
    workers: Workers = Workers(rows_per_part=64)
