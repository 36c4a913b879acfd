"""Which timm encoder a config refers to; found and checked before anything large is loaded."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from fgvr import hub, storage
from fgvr.config.model_names import HUB, LOCAL, brings_weights, in_folder
from fgvr.config.vectors import TimmVectors
from fgvr.digests import file_digest, folder_digest
from fgvr.encoders.timm_folder import CONFIG_FILE, ENDINGS, WEIGHTS, TimmFolderError, read_timm_folder
from fgvr.errors import UserError

FIELD: Final = "embed.vectors.model"


class TimmError(UserError, ValueError):
    """A timm encoder cannot be used; the message names the config field and what to do."""


@dataclass(frozen=True)
class TimmSource:
    """An encoder as it will be built.

    Attributes:
        name: as the config names it, without a folder's path.
        architecture: timm's name, with the tag whose data config holds, if one was named; "" until a hub model's files
            are there.
        weights: file of the weights on this machine; None until a hub model's files are there.
        data: what `config.json` says of the model's input (mean, std, input size …), which overrides timm's own data
            config of the architecture.
        model_args: further arguments of `timm.create_model`, as `config.json` states them.
        folder: local copy of a model's folder.
        commit: commit of a hub model.
    """

    name: str
    architecture: str = ""
    weights: Path | None = None
    data: dict[str, Any] = field(default_factory=dict)
    model_args: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    commit: str | None = None

    def identity(self) -> dict[str, str]:
        """What identifies this encoder in fingerprints, wherever its files lie."""
        if self.folder is not None:
            return {"kind": "timm", "files": folder_digest(self.folder)}
        if self.weights is not None:
            return {"kind": "timm", "name": self.architecture, "weights": file_digest(self.weights)[:16]}
        return {"kind": "timm", "name": self.name, "commit": str(self.commit)}

    def in_files(self) -> TimmSource:
        """For a hub model, the files of its commit, which are fetched; any other model unchanged.

        Raises:
            TimmError: the hub does not give them.
        """
        if self.commit is None:
            return self
        name = self.name.removeprefix(HUB)
        try:
            folder = hub.folder_of(name, self.commit, [CONFIG_FILE, WEIGHTS[0]])
            if not (folder / WEIGHTS[0]).exists():
                folder = hub.folder_of(name, self.commit, [CONFIG_FILE, WEIGHTS[1]])
        except hub.HubError as error:
            raise TimmError(f"{FIELD}: {error}") from error
        return replace(_in_folder(folder, self.name), folder=None)


def pinned(config: TimmVectors) -> TimmVectors:
    """The same encoder, with a hub name pinned to its current commit, for workers that load it later.

    Raises TimmError.
    """
    commit = find_timm(config).commit
    return config if commit is None else config.model_copy(update={"revision": commit})


def find_timm(config: TimmVectors) -> TimmSource:
    """The encoder that the config names: a folder, a hub name, or an architecture with a file of weights.

    Raises:
        TimmError: there is no such folder, name, architecture or file.
    """
    name = config.model
    if brings_weights(name) and config.weights is not None:
        raise TimmError(
            f"embed.vectors.weights: {name} has weights of its own; leave them out, or name the architecture "
            f"({FIELD}: tf_efficientnet_lite0)"
        )
    if name.startswith(HUB):
        return _on_hub(name, config.revision)
    if config.revision is not None:
        raise TimmError(f"embed.vectors.revision = {config.revision}: only hub models ({HUB}…) have revisions")
    return _in_place(name.removeprefix(LOCAL)) if in_folder(name) else _architecture(name, config.weights)


def _on_hub(name: str, revision: str | None) -> TimmSource:
    try:
        return TimmSource(name, commit=hub.commit_of(name.removeprefix(HUB), CONFIG_FILE, revision))
    except hub.HubError as error:
        at = "" if revision is None else f" at {revision} (embed.vectors.revision)"
        raise TimmError(f"{FIELD}: the Hugging Face hub did not give {name}{at}: {error}") from error


def _in_place(place: str) -> TimmSource:
    try:
        folder = storage.fetch_folder(storage.local_path(place).expanduser() if storage.is_local(place) else place)
    except FileNotFoundError as error:
        raise TimmError(f"{FIELD}: {error}") from None
    return _in_folder(folder.absolute(), place.rstrip("/").rpartition("/")[2])


def _in_folder(folder: Path, name: str) -> TimmSource:
    try:
        found = read_timm_folder(folder)
    except TimmFolderError as error:
        raise TimmError(f"{FIELD}: {error}") from None
    architecture = _known(found.architecture)
    return TimmSource(name, architecture, found.weights, found.data, found.model_args, folder)


def _architecture(name: str, weights: str | None) -> TimmSource:
    name = _known(name)
    if weights is None:
        raise TimmError(
            f"embed.vectors.weights: {name} without weights is random; name a file of weights, or a hub model as "
            f"{FIELD} (hf-hub:timm/…)"
        )
    try:
        file = storage.fetch_file(weights) if not storage.is_local(weights) else storage.local_path(weights)
    except FileNotFoundError as error:
        raise TimmError(f"embed.vectors.weights: {error}") from None
    file = file.expanduser().absolute()
    if not file.is_file():
        raise TimmError(f"embed.vectors.weights = {weights}: there is no such file")
    if not file.name.lower().endswith(ENDINGS):
        raise TimmError(f"embed.vectors.weights = {weights}: the name must end in {', '.join(ENDINGS)}")
    return TimmSource(name, name, file)


def _known(name: str) -> str:
    import timm

    if timm.is_model(name.partition(".")[0]):
        return name
    close = difflib.get_close_matches(name, timm.list_models(), n=3)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise TimmError(f"{FIELD}: {name!r} is neither a folder nor a model that timm knows{hint}")
