"""How the multimodal LLM learns from photos whose names are trusted, and when its adapter is taken (docs/adapt.md)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fgvr.config.base import RUNTIME_ONLY, Part, Workers
from fgvr.config.tree import Tuned


class Adapt(Part):
    """adapt: trains a LoRA adapter of the MLLM on photos with trusted names, and judges it on others (experimental;
    docs/adapt.md).
    """

    trust: Tuned[Literal["agreed", "checked"]] = "agreed"
    """Whose names are trusted. `checked`: those that a person has checked (`label.checked`); `agreed`: also those on
    which all answers about the photo and its neighbours agree, and which `issues` does not doubt."""
    max_images: Tuned[int] = Field(default=1000, ge=2)
    """Most photos to learn from, checked ones first; they are held in memory, shrunk to `image_side`."""
    judge_share: float = Field(default=0.3, gt=0, lt=1)
    """Share of the trusted photos that are not learned from, and judge the adapter; copies of a photo and photos of one
    group (`ingest.source.group_column`) are on the same side."""
    max_judged: int = Field(default=1000, ge=1)
    """Most photos that judge, checked ones first. Each is asked about twice, before and after the training."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Confidence of the one-sided exact McNemar test by which the adapter must be better on the judging photos. Raise
    it where several adapters are tried."""
    min_gain: float = Field(default=0.01, ge=0, lt=1)
    """Least gain for which it is taken: share of the judging photos right after, less the share before."""
    image_side: int = Field(default=512, ge=32)
    """Longest side in pixels to which photos are shrunk. The model sees each as one tile; raise it for a model that
    takes photos in their own size."""
    steps: Tuned[int] = Field(default=60, ge=1)
    """Optimiser steps."""
    photos: int = Field(default=4, ge=1)
    """Photos per step."""
    answers: int = Field(default=8, ge=2)
    """Sampled answers per photo, whose rewards are compared. More make it rarer that all get one reward, which teaches
    nothing."""
    temperature: float = Field(default=1, gt=0)
    """Temperature of these answers. Raise it where the model is so sure that all of them are the same."""
    stages: Literal["two_stage", "explore", "exploit"] = "two_stage"
    """Sign of the entropy term: `two_stage` rewards varied answers in the first 80% of the steps and sure ones after
    them; `explore` and `exploit` do one of the two throughout."""
    beta: float = Field(default=0.01, gt=0)
    """Weight of the entropy term."""
    lr: Tuned[float] = Field(default=1e-4, gt=0)
    """Peak learning rate of AdamW."""
    rank: int = Field(default=8, ge=1, le=512)
    """Rank of the LoRA matrices."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Random seed of the split, the order, the sampled answers and the adapter's first weights."""
    checkpoint_steps: Annotated[int, RUNTIME_ONLY] = Field(default=20, ge=1)
    """Steps between checkpoints: the most that is lost when the worker dies."""
    workers: Annotated[Workers, RUNTIME_ONLY] = Workers()
    """Where it is trained (one worker), in float32 with transformers: 4 bytes per weight of the model, and about as
    much for what training keeps. On a CPU only tiny models finish."""
