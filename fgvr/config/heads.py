"""Classifiers on stored vectors: prototypes of the labels' names, and trained heads."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from fgvr.config.base import Part
from fgvr.config.metadata import Metadata
from fgvr.config.tree import Tuned

SET_LOSSES = frozenset({"proden", "cc", "lws", "cavl"})
"""Losses of candidate sets; the others learn from the images' own labels."""


class Heads(Part):
    """heads: classifiers on stored vectors, made in seconds: prototypes of the labels' names, and a trained head."""

    network: Tuned[Literal["cosine", "linear", "mlp"]] = "cosine"
    """The trained head: `cosine` compares directions, `linear` is logistic regression, `mlp` has one hidden layer. The
    fewer answers per name, the simpler it should be."""
    loss: Tuned[Literal["gce", "ce", "balanced", "seesaw", "proden", "cc", "lws", "cavl"]] = "gce"
    """What it learns from each image: `gce`, which forgives wrong labels, and `ce` from its own label; `balanced` and
    `seesaw` the same for names of very different frequency; `proden`, `cc`, `lws` and `cavl` from its candidate set."""
    start: Literal["random", "text"] = "random"
    """Where a cosine head starts: at random, or at the names' CLIP text vectors in `clip.template`. With `text` vectors
    are not whitened, since texts are compared with vectors as they are."""
    whiten: bool = True
    """Whether prototypes and heads see whitened vectors (table `space`), in which photos of a name lie closer."""
    steps: Tuned[int] = Field(default=300, ge=1)
    """Training steps over all images; at least one pass where they do not fit into one step."""
    lr: float = Field(default=0.01, gt=0)
    """Peak learning rate of AdamW; it falls to zero as a cosine."""
    weight_decay: float = Field(default=0, ge=0)
    """Weight decay of AdamW."""
    hidden: int = Field(default=512, ge=1)
    """Width of the hidden layer of `mlp`."""
    gce_q: float = Field(default=0.7, gt=0, le=1)
    """q of the loss `gce`: near 0 it is cross entropy, at 1 mean absolute error."""
    members: int = Field(default=1, ge=1, le=100)
    """Heads trained with different seeds, whose probabilities are averaged."""
    propagation: Literal["auto", "always", "never"] = "auto"
    """Label propagation among photos with vectors, for the prototypes' names: `auto` where there are at most five
    answers per name, since it pays only there."""
    graph_images: int = Field(default=1_000_000, ge=1)
    """Photos in the graph of label propagation, drawn at random beside the labelled and the evaluated ones; 1,000,000
    photos with 512 numbers each take some 6 GB of the driver's memory."""
    metadata: Metadata = Metadata()
    """Columns of the samples that the trained head sees beside the vector; none by default."""
    seed: int = Field(default=0, ge=0)
    """Random seed of initial weights, batches, held-out images and drawn photos."""

    @property
    def learns_from_sets(self) -> bool:
        """Whether the loss needs candidate sets."""
        return self.loss in SET_LOSSES

    @model_validator(mode="after")
    def _text_is_for_cosines(self) -> Self:
        if self.start == "text" and self.metadata.on:
            raise ValueError(
                "start = text with metadata.columns: texts have no prices and places; set start to random, or leave "
                "the columns away"
            )
        if self.start == "text" and self.network != "cosine":
            raise ValueError(f"start = text needs network = cosine: {self.network} heads have no directions of names")
        return self
