"""CaSED: names from the captions nearest to an image (Conti et al., NeurIPS 2023; altndrr/vic, `models/cased.py`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fgvr.arrays import Floats
from fgvr.baselines.vocabularies import candidate_words, caption_words
from fgvr.models.infer import TOP, Row
from fgvr.neighbours import Vectors, nearest

RULES = 1
"""Increase it when the same vectors and captions would give other names."""
LOGIT_SCALE = 1 / 0.07
"""Scale of both softmaxes: the public code keeps CLIP's initial temperature."""


@dataclass(frozen=True)
class CaptionDatabase:
    """Captions and their L2-normalised text vectors [M, d]."""

    captions: Sequence[str]
    vectors: Vectors


@dataclass(frozen=True)
class CasedSettings:
    """How many captions are retrieved per image, and the image's weight against their centroid."""

    captions: int = 10
    image_weight: float = 0.7
    threads: int = 1


def predict(
    images: Vectors, database: CaptionDatabase, encode: Callable[[Sequence[str]], Floats], settings: CasedSettings
) -> list[Row]:
    """One predictions row (without image_id) per image, with the five best of its candidate words.

    p = w · softmax(s · x·T) + (1 − w) · softmax(s · c·T) over the image's own candidate words, where x is the image,
    c the normalised mean of its captions' vectors, T the words' vectors, s LOGIT_SCALE and w the image's weight.

    Args:
        images: L2-normalised, [N, d].
        database: the captions to retrieve from.
        encode: gives L2-normalised vectors float32 [W, d] of words.
        settings: the method's settings.
    """
    found = nearest(images, database.vectors, settings.captions, threads=settings.threads).ids
    words_of = {row: caption_words(database.captions[row]) for row in np.unique(found[found >= 0]).tolist()}
    candidates = [candidate_words([words_of[row] for row in rows if row >= 0]) for rows in found.tolist()]
    words = sorted({word for own in candidates for word in own})
    place = {word: number for number, word in enumerate(words)}
    vectors = encode(words)
    rows: list[Row] = []
    for image, retrieved, own in zip(images, found, candidates, strict=True):
        here = np.array([place[word] for word in own])
        centroid = database.vectors[retrieved[retrieved >= 0]].astype(np.float32).mean(axis=0)
        centroid /= max(float(np.linalg.norm(centroid)), 1e-12)
        own_vectors, weight = vectors[here], settings.image_weight
        scores = weight * _softmax(own_vectors @ image.astype(np.float32))
        scores += (1 - weight) * _softmax(own_vectors @ centroid)
        best = np.argsort(-scores, kind="stable")[:TOP]
        rows.append(
            {
                "label": own[best[0]],
                "label_id": int(here[best[0]]),
                "score": float(scores[best[0]]),
                "top_labels": [own[number] for number in best],
                "top_scores": scores[best].tolist(),
                "abstained": False,
            }
        )
    return rows


def _softmax(cosines: npt.NDArray[Any]) -> Floats:
    weights = np.exp(LOGIT_SCALE * (cosines - cosines.max()))
    return np.asarray(weights / weights.sum(), dtype=np.float32)
