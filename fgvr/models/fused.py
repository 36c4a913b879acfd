"""A student of photos and their metadata: one linear classifier on the features of both, side by side.

A linear classifier of concatenated features is the sum of one of the photo's and one of the metadata's. So the photo's
part is an ordinary timm model with its own classifier, and everything that is known of those (pretrained weights,
frozen backbones, rates by layer) holds for it. Without metadata the student sees all columns as missing, as it did in
a part of its training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from fgvr.config.metadata import FusedMetadata
from fgvr.metadata.encoder import MetadataEncoder, drawn, hidden
from fgvr.metadata.fitted import FittedMetadata, MetadataFormatError

PROJECTED = 256
"""Dimensions in which photo, text and metadata are compared (arXiv 2504.20322)."""


@dataclass(frozen=True)
class StudentMetadata:
    """The metadata of a student, except its weights.

    Attributes:
        fitted: the columns.
        dim: numbers into which they are encoded.
        dropout: probability in training that a column is hidden.
        dropout_all: probability in training that all of them are.
        contrast: whether it has projections for contrastive pre-training.
    """

    fitted: FittedMetadata
    dim: int
    dropout: float = 0.0
    dropout_all: float = 0.0
    contrast: bool = False

    @classmethod
    def of(cls, fitted: FittedMetadata, settings: FusedMetadata) -> Self:
        """As configured."""
        return cls(
            fitted, settings.dimensions, settings.dropout, settings.dropout_all, contrast=settings.pretrain_epochs > 0
        )

    def to_json(self) -> dict[str, Any]:
        """JSON types."""
        return {
            **self.fitted.to_json(),
            "dim": self.dim,
            "dropout": self.dropout,
            "dropout_all": self.dropout_all,
            "contrast": self.contrast,
        }

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> Self:
        """What `to_json` gave; raises MetadataFormatError."""
        try:
            numbers = (int(content["dim"]), float(content["dropout"]), float(content["dropout_all"]))
            return cls(FittedMetadata.of_json(content), *numbers, contrast=bool(content["contrast"]))
        except (KeyError, TypeError, ValueError) as error:
            raise MetadataFormatError(f"the description of its metadata is damaged: {error!r}") from None


class FusedStudent(nn.Module):
    """Photos float32 [n, 3, S, S] and features [n, dim] → outputs [n, C + Q + K]."""

    def __init__(self, image: nn.Module, outputs: int, metadata: StudentMetadata) -> None:
        """`image`: a timm model with so many outputs."""
        super().__init__()
        self.image, self.metadata = image, metadata
        self.widths = metadata.fitted.widths
        are_texts = metadata.fitted.texts()
        self.groups = [
            chosen
            for chosen in ([n for n, text in enumerate(are_texts) if text is kind] for kind in (False, True))
            if chosen
        ]
        self.encoders = nn.ModuleList(
            MetadataEncoder([self.widths[n] for n in group], metadata.dim) for group in self.groups
        )
        self.classifier = nn.Linear(metadata.dim * len(self.groups), outputs, bias=False)
        self.projections = nn.ModuleList()
        if metadata.contrast:
            named: Any = image
            sizes = [named.head_hidden_size, *[metadata.dim] * len(self.groups)]
            self.projections.extend(nn.Linear(size, PROJECTED) for size in sizes)

    def get_classifier(self) -> Sequence[nn.Module]:
        """What learns while a backbone is frozen: the classifiers and all of the metadata's part."""
        named: Any = self.image
        found = named.get_classifier()
        heads = found if isinstance(found, tuple | list) else (found,)
        return (*heads, *self.encoders, self.classifier, *self.projections)

    def forward(self, pixels: Tensor, features: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
        """Outputs; in training with contrast also the projections, all as one tuple.

        `features` None: nothing is known of any photo.
        """
        encoded = [encoder(part) for encoder, part in zip(self.encoders, self._parts(pixels, features), strict=True)]
        named: Any = self.image
        if not (self.projections and self.training):
            whole: Tensor = named(pixels) + self.classifier(torch.cat(encoded, dim=1))
            return whole
        maps = named.forward_features(pixels)
        outputs = named.forward_head(maps) + self.classifier(torch.cat(encoded, dim=1))
        views = [named.forward_head(maps, pre_logits=True), *encoded]
        return (outputs, *(project(view) for project, view in zip(self.projections, views, strict=True)))

    def _parts(self, pixels: Tensor, features: Tensor | None) -> list[Tensor]:
        """The features of each group of columns; in training some columns are hidden."""
        total, columns, made = sum(self.widths), len(self.widths), self.metadata
        if features is None:
            features = torch.from_numpy(made.fitted.none(1)).to(pixels.device).expand(len(pixels), -1)
        if self.training:
            gone = drawn(len(features), columns, made.dropout, made.dropout_all, features.device)
            features = hidden(features, self.widths, gone)
        blocks = torch.split(features[:, :total], list(self.widths), dim=1)
        flags = features[:, total:]
        return [torch.cat([*(blocks[n] for n in group), flags[:, group]], dim=1) for group in self.groups]
