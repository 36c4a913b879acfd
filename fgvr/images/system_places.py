"""Places on this machine that belong to the system or hold keys, and no photo of a person."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fgvr import storage

KEYS: Final = (
    r"/\.(?:ssh|aws|azure|gnupg|kube|docker|password-store|config/gcloud)(?:/|$)"
    r"|/\.(?:netrc|pgpass|git-credentials|npmrc|pypirc|env(?:rc|\.[^/]*)?)$|^(?:/var)?/run/secrets/"
)
"""Where tools keep keys and passwords; also for Arrow's expressions, which look at nothing ahead."""


def _homes() -> str:
    """A pattern of the folders of people, wherever they are mounted; of this process's own one, too."""
    own = os.path.expanduser("~")  # noqa: PTH111  # Path.home() raises where there is none
    known = {re.escape(place.rstrip("/")) for place in (own, os.path.realpath(own)) if own.startswith("/")}
    return "|".join(["/(?:home|Users)/[^/]+", *(f"^{place}" for place in ("/root", *sorted(known)))])


HIDDEN: Final = rf"(?:{_homes()})/\."
"""Hidden files and folders of people. Every tool has its own for its keys, so that no list of them is ever complete."""
_DATA: Final = re.compile(
    rf"(?:{_homes()})/\.(?:cache/(?:fgvr|huggingface/(?:hub|datasets)|kagglehub/datasets)|fastai/data|keras/datasets)(?:/|$)"
)
"""What is below them and holds downloaded data sets."""
_SYSTEM: Final = re.compile(rf"^/(?:proc|sys|etc|boot|dev(?!/shm/))(?:/|$)|{KEYS}")
_HIDDEN: Final = re.compile(HIDDEN)


def is_system_place(path: str) -> bool:
    """Whether an absolute path, as it is spelled, is one of them; in memory (/dev/shm) lie photos, too."""
    return _SYSTEM.search(path) is not None or (_HIDDEN.search(path) is not None and _DATA.search(path) is None)


def leads_to_system(path: Path, allowed_roots: Sequence[str] = ()) -> bool:
    """Whether links on the way of a path lead to such a place, and the path does not say so.

    What a path says is decided where it is listed. `allowed_roots`: as in `ingest.limits`.
    """
    real = os.path.realpath(path)
    if real == str(path) or not is_system_place(real) or is_system_place(str(path.absolute())):
        return False
    roots = [
        os.path.realpath(storage.local_path(root).expanduser()) for root in allowed_roots if storage.is_local(root)
    ]
    return not any(real == root or real.startswith(root.rstrip("/") + "/") for root in roots)
