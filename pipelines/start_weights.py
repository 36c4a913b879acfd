"""The pretrained weights of `makd.weights`: checked before anything is computed, put where all workers read them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fgvr import storage
from fgvr.config import Makd

if TYPE_CHECKING:
    from fgvr.models.start_weights import StartWeights
    from fgvr.models.student import StudentSpec

log = logging.getLogger(__name__)

START_FOLDER = "start"
FILE = "weights.safetensors"


def start_uri(folder: str) -> str:
    """The file below `folder` in which `put_weights` writes."""
    return storage.join(folder, FILE)


def find_weights(settings: Makd) -> StartWeights | None:
    """The weights that students start from; None from scratch. Raises StartError for what cannot be used."""
    from fgvr.models.start_weights import find_start

    return None if settings.weights is None else find_start(settings.weights, settings.backbone)


def check_weights(settings: Makd, spec: StudentSpec) -> None:
    """Read the weights completely, those of the hub included, and compare them with the backbone; raises StartError."""
    from fgvr.models.start_match import start_of

    found = find_weights(settings)
    if found is not None:
        start_of(found, spec)


def put_weights(settings: Makd, spec: StudentSpec, folder: str, *, keep_classifier: bool = True) -> tuple[str, str]:
    """Write what the student takes of its weights; returns the file's URI, and what matched in a sentence.

    Args:
        settings: their `weights` are not null.
        spec: the student.
        folder: URI.
        keep_classifier: see `start_of`.

    Raises:
        StartError: the weights do not fit any more.
    """
    from safetensors.torch import save

    from fgvr.models.start_match import start_of
    from fgvr.models.start_weights import find_start

    start = start_of(find_start(str(settings.weights), settings.backbone), spec, keep_classifier=keep_classifier)
    uri = start_uri(folder)
    storage.write_bytes(uri, save(start.tensors))
    return uri, start.sentence
