"""Models that are none: their answers are made up, so that what a run costs without its models can be measured."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from fgvr.config.base import Part

EngineReason = Literal["refused", "empty_answer", "no_label_mass", "request_rejected", "engine_error"]


class SimulatedBackend(Part):
    """No model at all: made-up answers after a modelled time, to measure how a run scales. Never a default."""

    kind: Literal["simulated"] = "simulated"
    names: int = Field(default=1000, ge=1)
    """Kinds of things; of which kind an image is, its content decides by a hash."""
    accuracy: float = Field(default=0.7, ge=0, le=1)
    """Share of answers that name the image's own kind; the others name any other."""
    rare_names: float = Field(default=0.002, ge=0, le=1)
    """Share of answers with a name that no other image gets, as the inventions of a real model."""
    request_seconds: float = Field(default=0, ge=0)
    """Time of a request without its tokens, seconds."""
    tokens_per_second: float | None = Field(default=None, gt=0)
    """Output tokens of one request a second; null: they take no time."""
    concurrency: int = Field(default=64, ge=1)
    """Requests that an engine works on at once; others wait."""
    start_seconds: float = Field(default=0, ge=0)
    """Time that loading takes, seconds."""
    failures: dict[EngineReason, float] = Field(default_factory=dict)
    """Shares of images that fail, by reason; the same images in every run."""
    seed: int = Field(default=0, ge=0)
    """Another seed gives other answers to the same images."""

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if any(share < 0 for share in self.failures.values()) or sum(self.failures.values()) > 1:
            given = ", ".join(f"{reason} {share:g}" for reason, share in self.failures.items())
            raise ValueError(f"failures ({given}): shares are at least 0 and add up to at most 1")
        return self


class ClipVectors(Part):
    """Vectors of the configured CLIP."""

    kind: Literal["clip"] = "clip"


class SimulatedVectors(Part):
    """Made-up vectors: images of one kind, as `mllm.kind simulated` has kinds, lie together. Never a default."""

    kind: Literal["simulated"] = "simulated"
    dim: int = Field(default=512, ge=1)
    """Length of the vectors."""
    names: int = Field(default=1000, ge=1)
    """Kinds of things; those of the simulated backend where both are equal, and the seeds are."""
    spread: float = Field(default=0.7, ge=0)
    """How far images of a kind lie apart: the cosine of two of them is about 1 / (1 + spread²)."""
    seed: int = Field(default=0, ge=0)
    """Another seed gives other kinds and vectors."""
