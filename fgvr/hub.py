"""Models named as on the Hugging Face hub: which commit a name refers to, and the model's files at that commit.

A name refers to whatever was published last. So fingerprints hold the commit, and workers, which start later, load
exactly that commit. Within a session a name is looked up once (`names_kept`): a version published meanwhile would give
two tables of one run different models. Without a network, the local hub cache says which commit the name referred to
when last fetched.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from fgvr.errors import UserError


class HubError(UserError, OSError):
    """The hub did not give a model's file; the message holds the reason only, since callers add the config field."""


_kept: dict[tuple[str, str | None], str] | None = None  # (name, revision) → commit; None: names are not kept


@contextmanager
def names_kept() -> Iterator[None]:
    """Within the block, a name and revision refer to the commit that they referred to when first looked up."""
    global _kept  # noqa: PLW0603  # a process has one run
    outer = _kept
    _kept = {} if outer is None else outer
    try:
        yield
    finally:
        _kept = outer


def file_of(name: str, file: str, revision: str | None = None) -> Path:
    """A small file of a hub model in the hub's local cache; its parent folder is named after the commit.

    Args:
        name: owner/model.
        file: a file that every model of this kind has.
        revision: branch, tag or commit; None for the newest.

    Raises:
        HubError: no such model, revision or file; or no network and nothing cached.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    known = None if _kept is None else _kept.get((name, revision))
    away = not constants.HF_HUB_OFFLINE and has_no_network()
    try:
        found = Path(hf_hub_download(name, file, revision=known or revision, local_files_only=away))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if constants.HF_HUB_OFFLINE and not isinstance(error, HFValidationError):
            reason = "HF_HUB_OFFLINE is set, and the hub's cache on this machine does not hold it"
        elif away:
            reason = (
                f"no address is known for {constants.ENDPOINT}, so there is no network here, and the hub's cache on "
                "this machine does not hold it. Fetch the model where there is one, and name its folder"
            )
        raise HubError(reason) from error
    if _kept is not None:
        _kept[name, revision] = found.parent.name
    return found


def has_no_network() -> bool:
    """Whether the hub's name cannot be looked up, so that only its cache on this machine can give anything."""
    from huggingface_hub import constants

    return _has_no_address(constants.ENDPOINT)


@cache
def _has_no_address(endpoint: str) -> bool:
    """Whether a server's name cannot be looked up, as without a network: retries, a minute per model, would be in vain.

    A proxy looks names up itself.
    """
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY")):
        return False
    try:
        socket.getaddrinfo(urlsplit(endpoint).hostname, None)
    except OSError:
        return True
    return False


def commit_of(name: str, file: str, revision: str | None = None) -> str:
    """The commit that a name and revision refer to, 40 hex digits; raises HubError as `file_of` does."""
    return file_of(name, file, revision).parent.name


def folder_of(name: str, commit: str, patterns: Iterable[str]) -> Path:
    """The folder with those files of a commit that match `patterns`; raises HubError."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(snapshot_download(name, revision=commit, allow_patterns=list(patterns)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise HubError(f"{name} at {commit}: {error}") from error


PICKLED = (
    "its weights are a pickle that holds more than tensors, which could run any program; it was not loaded. Take the "
    "model's .safetensors files, or convert it where you trust it"
)
