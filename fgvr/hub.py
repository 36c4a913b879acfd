"""Models by their names on the Hugging Face hub: which commit a name means, and its files at that commit.

A name means what was published last. So fingerprints hold the commit, and workers, which come later, are asked for that
commit. Without a network the hub's cache on this machine says what the name meant when it was last fetched.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fgvr.errors import UserError


class HubError(UserError, OSError):
    """The hub did not give a model's file; the message is the reason alone, since callers know the config field."""


def file_of(name: str, file: str, revision: str | None = None) -> Path:
    """A small file of a hub model in the hub's local cache, whose parent folder is named by the commit.

    Args:
        name: owner/model.
        file: that every model of the kind has.
        revision: branch, tag or commit; None: the newest.

    Raises:
        HubError: no such model, revision or file, or no network and nothing in the cache.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(hf_hub_download(name, file, revision=revision))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if constants.HF_HUB_OFFLINE and not isinstance(error, HFValidationError):
            reason = "HF_HUB_OFFLINE is set, and the hub's cache on this machine does not hold it"
        raise HubError(reason) from error


def commit_of(name: str, file: str, revision: str | None = None) -> str:
    """The commit that a name and revision mean, 40 hex digits; raises HubError as `file_of` does."""
    return file_of(name, file, revision).parent.name


def folder_of(name: str, commit: str, patterns: Iterable[str]) -> Path:
    """The folder with the files of a commit whose names fit `patterns`; raises HubError."""
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
