"""Where the image vectors of embed come from: the configured CLIP, another encoder, a file, or nowhere."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fgvr.config.base import Part


class ClipVectors(Part):
    """Vectors of the configured CLIP."""

    made_up: ClassVar[bool] = False

    kind: Literal["clip"] = "clip"


class TimmVectors(Part):
    """Vectors of any image encoder that timm knows: neighbours, duplicates, selection and heads need no text tower."""

    made_up: ClassVar[bool] = False

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


class FileVectors(Part):
    """Vectors that are there already, in a .npy, .npz or .parquet file. docs/encoders.md."""

    made_up: ClassVar[bool] = False

    kind: Literal["file"] = "file"
    path: str
    """The file, local or s3://: .npz or .parquet with the photos' URIs or ids beside the vectors, or a .npy in the
    order of the samples (`order`)."""
    vector_column: str = "vector"
    """Array or column with the vectors, one row per photo; `vectors` is found by itself, too."""
    uri_column: str = "uri"
    """Array or column with the photos' URIs, as listed or relative to the photo source's folder. Where it is absent,
    `id_column` counts."""
    id_column: str = "image_id"
    """Array or column with the photos' `image_id` in the samples table, for files without URIs."""
    order: Literal["named", "samples"] = "named"
    """`named`: each row says which photo it is of; `samples`: row i is of the photo with image_id i, which follows the
    sorted URIs, not the order of your list. Nothing can check the latter without `encoder`."""
    encoder: Annotated[ClipVectors | TimmVectors, Field(discriminator="kind")] | None = None
    """What made the vectors, where it can be had: a few photos are embedded again and compared, models made from the
    vectors can take further photos, and with `kind: clip` texts can be compared with them. null: unknown."""


class SimulatedVectors(Part):
    """Made-up vectors: images of one kind, in the sense of `mllm.kind simulated`, lie together. Never a default."""

    made_up: ClassVar[bool] = True

    kind: Literal["simulated"] = "simulated"
    dim: int = Field(default=512, ge=1)
    """Dimensions of the vectors."""
    names: int = Field(default=1000, ge=1)
    """Number of kinds; they are those of the simulated backend where number and seed are the same."""
    spread: float = Field(default=0.7, ge=0)
    """How far images of a kind lie apart: the cosine of two of them is about 1 / (1 + spread²)."""
    seed: int = Field(default=0, ge=0)
    """Random seed of kinds and vectors."""


Vectors = Annotated[ClipVectors | TimmVectors | FileVectors | SimulatedVectors, Field(discriminator="kind")]


def has_texts(vectors: Vectors) -> bool:
    """Whether texts can be compared with these vectors: those of the configured CLIP, wherever they come from."""
    return isinstance(vectors.encoder if isinstance(vectors, FileVectors) else vectors, ClipVectors)
