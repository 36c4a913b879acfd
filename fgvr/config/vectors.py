"""Where the image vectors of embed come from: the configured CLIP, another encoder, a file, or nowhere."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fgvr.config.base import Part


class ClipVectors(Part):
    """Vectors of the configured CLIP."""

    made_up: ClassVar[bool] = False
    has_texts: ClassVar[bool] = True
    """Texts can be compared with these vectors."""

    kind: Literal["clip"] = "clip"


class TimmVectors(Part):
    """Vectors of any image encoder that timm knows: neighbours, duplicates, selection and heads need no text tower."""

    made_up: ClassVar[bool] = False
    has_texts: ClassVar[bool] = False

    kind: Literal["timm"] = "timm"
    model: str
    """A folder as timm saves it (config.json beside the weights; local or s3://), a hub name
    (hf-hub:timm/vit_small_patch14_dinov2.lvd142m), or timm's name of an architecture (tf_efficientnet_lite0), whose
    weights `weights` names."""
    weights: str | None = None
    """File with the weights of the named architecture (.safetensors, .pth, .bin; local or s3://); null for folders and
    hub names."""
    revision: str | None = None
    """Revision of a hub model; null: the newest one when the run starts, whose commit is recorded."""


class SimulatedVectors(Part):
    """Made-up vectors: images of one kind, in the sense of `mllm.kind simulated`, lie together. Never a default."""

    made_up: ClassVar[bool] = True
    has_texts: ClassVar[bool] = False

    kind: Literal["simulated"] = "simulated"
    dim: int = Field(default=512, ge=1)
    """Dimensions of the vectors."""
    names: int = Field(default=1000, ge=1)
    """Number of kinds; they are those of the simulated backend where number and seed are the same."""
    spread: float = Field(default=0.7, ge=0)
    """How far images of a kind lie apart: the cosine of two of them is about 1 / (1 + spread²)."""
    seed: int = Field(default=0, ge=0)
    """Random seed of kinds and vectors."""


Vectors = Annotated[ClipVectors | TimmVectors | SimulatedVectors, Field(discriminator="kind")]
