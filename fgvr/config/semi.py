"""Semi-supervised training of students (Semi-ViT): what photos without a trusted name add."""

from __future__ import annotations

from pydantic import Field

from fgvr.config.base import Part

STRONG = 2
"""Operations of RandAugment on the strongly changed views where `makd.randaugment` names none."""


class Semi(Part):
    """makd.semi: pseudo-labels of photos without a trusted name, for `makd.trainer: semi` (Semi-ViT, arXiv
    2208.05688).
    """

    threshold: float = Field(default=0.7, gt=0)
    """Confidence of the teacher, 0 … 1, from which a photo is learned under the name that it gives (Semi-ViT: 0.5 to
    0.7); above 1: none is. Raise it where wrong names are learned."""
    per_class: bool = False
    """Lower the threshold of names that few photos have reached so far (FlexMatch), where many names are rare."""
    weight: float = Field(default=1, ge=0)
    """Weight of their loss beside that of the labelled photos (Semi-ViT: 5, which harmed students of few photos:
    docs/students.md)."""
    ratio: float = Field(default=5, gt=0)
    """Photos with pseudo-labels per labelled one in a step (Semi-ViT: 5). Labelled photos are repeated as needed."""
    mixup: bool = True
    """Blend photos in pairs by how confident the teacher is of each (probabilistic pseudo-mixup)."""
