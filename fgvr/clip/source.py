"""Which CLIP a config refers to; found and checked before anything large is loaded."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass, replace
from pathlib import Path

from fgvr import hub, storage
from fgvr.config.model_names import DEMO_MODEL, HUB, LOCAL, in_folder
from fgvr.config.models import Clip
from fgvr.digests import file_digest, folder_digest
from fgvr.errors import UserError

CONFIG_FILE = "open_clip_config.json"
WEIGHTS = ("*.safetensors", "*.bin", "*.pth", "*.pt")
_SAFE_FILES = ("*.json", "*.txt", "*.model", "open_clip_*.safetensors", "model.safetensors")
_OTHER_FILES = ("open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth")


class ClipError(UserError, ValueError):
    """A CLIP cannot be used; the message names the config field and what to do."""


@dataclass(frozen=True)
class ClipSource:
    """A model as it is requested from open_clip.

    Attributes:
        name: open_clip's model name, including `local-dir:` or `hf-hub:` if present.
        pretrained: tag or file of the weights; None if the name determines them.
        folder: local copy of a `local-dir:` model.
        quick_gelu: whether the weights were trained with QuickGELU: another activation silently costs accuracy.
        commit: commit of a `hf-hub:` model.
        origin: URL from which the weights file was fetched.
    """

    name: str
    pretrained: str | None = None
    folder: Path | None = None
    quick_gelu: bool = False
    commit: str | None = None
    origin: str | None = None

    def identity(self) -> dict[str, str | None]:
        """What identifies this model in fingerprints, wherever its files lie."""
        if self.folder is not None:
            return {"files": folder_digest(self.folder)}
        if self.commit is not None:
            return {"name": self.name, "commit": self.commit}
        if self.pretrained is not None and Path(self.pretrained).is_file():
            return {"name": self.name, "weights": file_digest(self.pretrained)[:16]}
        return {"name": self.name, "pretrained": self.pretrained}

    def in_files(self) -> ClipSource:
        """For a hub model, a folder with the files of its commit, which are fetched; any other model unchanged.

        Raises:
            ClipError: the hub does not give them.
        """
        if self.commit is None:
            return self
        name = self.name.removeprefix(HUB)
        try:
            folder = hub.folder_of(name, self.commit, _SAFE_FILES)
            if not any(next(folder.glob(pattern), None) for pattern in WEIGHTS):
                folder = hub.folder_of(name, self.commit, [*_SAFE_FILES, *_OTHER_FILES])
        except hub.HubError as error:
            raise ClipError(f"clip.model: {error}") from error
        return replace(_folder(str(folder)), commit=None)


def pinned(config: Clip) -> Clip:
    """The same model, with a hub name pinned to its current commit, for workers that load it later.

    Raises ClipError.
    """
    commit = find_clip(config).commit
    return config if commit is None else config.model_copy(update={"revision": commit})


def find_clip(config: Clip) -> ClipSource:
    """The model that the config names: `demo`, a folder (local or in an object store), a hub or an open_clip name.

    Raises:
        ClipError: there is no such folder, name, tag or file, or name and weights do not match.
    """
    if config.model == DEMO_MODEL:
        from fgvr.demo.paths import CLIP_PATH

        return _folder(str(CLIP_PATH))
    if config.model.startswith(HUB):
        return _hub(config.model, config.revision)
    if in_folder(config.model):
        return _folder(config.model.removeprefix(LOCAL))
    return _builtin(config.model, config.pretrained)


def _hub(model: str, revision: str | None) -> ClipSource:
    try:
        return ClipSource(model, commit=hub.commit_of(model.removeprefix(HUB), CONFIG_FILE, revision))
    except hub.HubError as error:
        at = "" if revision is None else f" at {revision} (clip.revision)"
        raise ClipError(f"clip.model: the Hugging Face hub did not give {model}{at}: {error}") from error


def _folder(place: str) -> ClipSource:
    try:
        folder = storage.fetch_folder(storage.local_path(place).expanduser() if storage.is_local(place) else place)
    except FileNotFoundError as error:
        raise ClipError(f"clip.model: {error}") from None
    folder = folder.absolute()
    try:
        facts = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ClipError(f"clip.model: {folder} has no {CONFIG_FILE}; expected an open_clip model folder") from None
    except ValueError as error:
        raise ClipError(f"clip.model: {folder / CONFIG_FILE} is not JSON: {error}") from None
    if not isinstance(facts, dict) or "model_cfg" not in facts:
        raise ClipError(f"clip.model: {folder / CONFIG_FILE} has no `model_cfg`")
    # open_clip only warns about this and continues with random weights.
    if not any(next(folder.glob(pattern), None) for pattern in WEIGHTS):
        raise ClipError(f"clip.model: {folder} holds no weights ({', '.join(WEIGHTS)})")
    return ClipSource(f"{LOCAL}{folder}", folder=folder)


def _builtin(name: str, pretrained: str | None) -> ClipSource:
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    architecture = open_clip.get_model_config(name.replace("/", "-"))
    if architecture is None:
        close = difflib.get_close_matches(name, open_clip.list_models(), n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ClipError(f"clip.model: {name!r} is neither a folder nor a model that open_clip knows{hint}")
    tags = open_clip.list_pretrained_tags_by_model(name.replace("/", "-"))
    known = f"a file or one of {', '.join(tags) or '(none)'}"
    if pretrained is None:
        raise ClipError(f"clip.pretrained: {name} without weights is random; name {known}")
    origin = None if storage.is_local(pretrained) else pretrained
    if origin is not None:
        try:
            pretrained = str(storage.fetch_file(origin))
        except FileNotFoundError as error:
            raise ClipError(f"clip.pretrained: {error}") from None
    weights = get_pretrained_cfg(name.replace("/", "-"), pretrained)
    if not weights and not Path(pretrained).expanduser().is_file():
        raise ClipError(f"clip.pretrained: {pretrained!r} is no file and no tag of {name}; name {known}")
    quick = bool(weights.get("quick_gelu", False)) if weights else bool(architecture.get("quick_gelu", False))
    if quick and not architecture.get("quick_gelu", False):
        raise ClipError(
            f"clip.model: the {pretrained} weights were trained with QuickGELU, and {name} has another activation "
            f"(4 points less on ImageNet); use {name}-quickgelu"
        )
    name = name.replace("/", "-")  # as in open_clip: both spellings mean one model
    return ClipSource(
        name, str(Path(pretrained).expanduser()) if not weights else pretrained, quick_gelu=quick, origin=origin
    )


def check_clip_weights(config: Clip) -> None:
    """Without a network, or with the hub switched off, check that a cache here holds the weights of an open_clip tag.

    With a network, the first process that needs them fetches them.

    Raises:
        ClipError: the weights are not in the cache and cannot be fetched.
    """
    from huggingface_hub import constants, try_to_load_from_cache
    from open_clip.pretrained import get_pretrained_cfg

    if config.pretrained is None or not (constants.HF_HUB_OFFLINE or hub.has_no_network()):
        return
    facts = get_pretrained_cfg(config.model.replace("/", "-"), config.pretrained)
    repository = str(facts.get("hf_hub") or "")
    if not repository or facts.get("file"):
        return
    name, _, file = repository.rpartition("/")
    files = [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "there is no network here to fetch it"
    if not any(isinstance(try_to_load_from_cache(name, found), str) for found in files):
        raise ClipError(
            f"clip.pretrained: {config.pretrained} of {config.model} is not in the hub's cache on this machine, and "
            f"{reason}; name a weights file"
        )
