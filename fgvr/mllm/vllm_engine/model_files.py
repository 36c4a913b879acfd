"""A model's files: found, checked for vision, measured and fingerprinted before they are loaded.

Many repositories hold their weights twice, in two formats or layouts: only one copy is fetched and counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from fgvr import hub, storage
from fgvr.config.model_names import DEMO_MODEL
from fgvr.config.models import VllmBackend
from fgvr.digests import folder_digest
from fgvr.errors import UserError

SAFETENSORS_INDEX, BIN_INDEX = "model.safetensors.index.json", "pytorch_model.bin.index.json"
_LAYOUTS: tuple[tuple[str | None, str], ...] = (
    (SAFETENSORS_INDEX, "model*.safetensors"),
    (None, "*.safetensors"),
    (BIN_INDEX, "pytorch_model*.bin"),
    (None, "*.bin"),
    (None, "*.pt"),
    (None, "*.pth"),
    (None, "*.gguf"),
)
"""In order of preference: index files, and the usual names of weight files."""
_ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".ot", ".onnx")
_NO_WEIGHTS = frozenset({"training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt"})
"""Files that a trainer leaves beside the weights."""
Read = Callable[[str], bytes]
"""The content of a file by its name in the folder; raises OSError if it does not exist."""

_VISION_KEYS = ("vision_config", "vision_tower", "mm_vision_tower", "visual", "img_processor", "vision_encoder")
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def weight_files(names: Iterable[str], read: Read) -> list[str]:
    """Sorted names of the weight files that are loaded; empty if a folder has no weights.

    Args:
        names: names of the files directly in a folder.
        read: reads the index file.
    """
    there = {name for name in names if name not in _NO_WEIGHTS}
    for index, pattern in _LAYOUTS:
        found = _indexed(index, read) & there if index in there else set()
        found = found or {name for name in there if fnmatch(name, pattern)}
        if found:
            return sorted(found)
    return []


def weights_in(folder: Path) -> list[Path]:
    """The same for a folder on this machine."""
    names = [file.name for file in folder.iterdir() if file.is_file()]
    return [folder / name for name in weight_files(names, lambda name: (folder / name).read_bytes())]


def needed_files(names: Sequence[str], read: Read) -> list[str]:
    """All files of a checkpoint that an engine needs: one copy of the weights, and everything that is not weights.

    Args:
        names: names of its files, relative, with `/`. Weights in subfolders (`original/`, `onnx/`) are other copies.
        read: as in `weight_files`.
    """
    weights = set(weight_files([name for name in names if "/" not in name], read))
    if not weights:
        return list(names)
    return [name for name in names if name in weights or not name.endswith(_ENDINGS)]


def _indexed(index: str | None, read: Read) -> set[str]:
    """Files that an index names; none if it cannot be read."""
    try:
        facts: Any = json.loads(read(index or ""))
        return {str(name) for name in facts["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()  # these files are untrusted


class ModelError(UserError, ValueError):
    """A model that cannot be used; the message names the config field and what to do."""


@dataclass(frozen=True)
class ModelFiles:
    """A model folder on this machine."""

    folder: Path
    config: dict[str, Any]

    @property
    def architecture(self) -> str:
        """The class named in the checkpoint."""
        return str((self.config.get("architectures") or ["an unnamed architecture"])[0])

    def check_vision(self, multimodal: Container[str]) -> None:
        """Raise ModelError for a model that reads no images.

        Args:
            multimodal: architectures that the engine treats as multimodal; some have no vision part in their config.
        """
        if self.architecture not in multimodal and not any(key in self.config for key in _VISION_KEYS):
            raise ModelError(
                f"mllm.model: {self.folder} holds {self.architecture}, which reads no images; name a multimodal model"
                " (InternVL, LLaVA, Qwen-VL …)"
            )

    def weight_bytes(self, dtype: str) -> int:
        """Memory that the weights take in `dtype` ("auto": 16 bits); an estimate from the sizes of the files."""
        stored = sum(file.stat().st_size for file in weights_in(self.folder))
        text = self.config.get("text_config") or {}
        saved = str(self.config.get("dtype") or self.config.get("torch_dtype") or text.get("dtype") or "bfloat16")
        return int(stored * _BYTES.get(dtype, 2) / _BYTES.get(saved, 2))

    def fingerprint(self) -> str:
        """A hash of the folder's content, 16 hex digits, over all bytes of all files: copies of a folder agree.

        The result is cached (`fgvr.digests`). Texts for people do not count.
        """
        return folder_digest(self.folder)


def find(config: VllmBackend) -> ModelFiles:
    """The model's folder: the demo's, a local one, or a download from an object store or the Hugging Face hub.

    Raises:
        ModelError: there is no such folder or hub model, or it has no readable config.json.
    """
    folder = _local_folder(config)
    if folder is None:
        try:
            folder = _from_hub(config) if storage.is_local(config.model) else _from_store(config.model)
        except FileNotFoundError:
            raise ModelError(f"mllm.model: there is nothing at {config.model}") from None
    return ModelFiles(folder, _read_config(str(folder)))


def identity(config: VllmBackend) -> dict[str, str | None]:
    """What identifies this model in fingerprints, wherever its folder lies; fetches no weights.

    Also a check before a run: raises ModelError as `find` does.
    """
    folder = _local_folder(config)
    if folder is not None:
        return {"files": ModelFiles(folder, _read_config(str(folder))).fingerprint()}
    if not storage.is_local(config.model):
        _read_config(config.model)
        return {"files": folder_digest(config.model)}
    # The hub's cache has one folder per commit.
    return {"name": config.model, "commit": _hub_config(config).parent.name}


def pinned(config: VllmBackend) -> VllmBackend:
    """The same model, with a hub name pinned to its current commit, for workers that load it later.

    A version published meanwhile would not be the one in the fingerprint. Raises ModelError.
    """
    if _local_folder(config) is not None or not storage.is_local(config.model):
        return config
    return config.model_copy(update={"revision": _hub_config(config).parent.name})


def _read_config(place: str) -> dict[str, Any]:
    """The config.json of a folder anywhere."""
    uri = storage.join(place, "config.json")
    try:
        facts: dict[str, Any] = json.loads(storage.read_bytes(uri))
    except FileNotFoundError:
        raise ModelError(f"mllm.model: {place} has no config.json; expected a Hugging Face checkpoint") from None
    except ValueError as error:
        raise ModelError(f"mllm.model: {uri} is not JSON: {error}") from None
    return facts


def _local_folder(config: VllmBackend) -> Path | None:
    """The folder on this machine that the config names; None for object stores and hub names."""
    if config.model == DEMO_MODEL:
        from fgvr.demo.paths import MLLM_PATH

        if not (MLLM_PATH / "config.json").exists():
            raise ModelError(f"mllm.model: the demo's model is missing at {MLLM_PATH}; is the installation whole?")
        return MLLM_PATH
    if not storage.is_local(config.model):
        return None
    folder = storage.local_path(config.model).expanduser()
    if folder.is_dir():
        return folder.absolute()
    if config.model.startswith(("/", ".", "~", "file:")) or config.model.count("/") != 1:
        raise ModelError(f"mllm.model: there is no folder {config.model}")
    return None


def _hub_config(config: VllmBackend) -> Path:
    """The config.json of a hub model, in the hub's local cache: fetched alone, so that mistakes show at once."""
    try:
        return hub.file_of(config.model, "config.json", config.revision)
    except hub.HubError as error:
        at = "" if config.revision is None else f" at {config.revision} (mllm.revision)"
        raise ModelError(
            f"mllm.model: {config.model}{at} is no folder here, and the Hugging Face hub did not give it: {error}"
        ) from error


def _from_store(uri: str) -> Path:
    """Everything that vLLM needs of a model in an object store."""
    return storage.fetch_folder(
        uri, lambda names: needed_files(names, lambda name: storage.read_bytes(storage.join(uri, name)))
    )


def _from_hub(config: VllmBackend) -> Path:
    """Everything that vLLM needs of a hub model."""
    from huggingface_hub import snapshot_download

    commit = _hub_config(config).parent.name
    patterns = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.py", "*.bin"]
    doubles = _doubles(config.model, commit)
    return Path(snapshot_download(config.model, revision=commit, allow_patterns=patterns, ignore_patterns=doubles))


def _doubles(model: str, commit: str) -> list[str]:
    """Files of a hub model whose weights are also in other files; empty if the hub does not respond."""
    from huggingface_hub import hf_hub_download, list_repo_files
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    def read(name: str) -> bytes:
        return Path(hf_hub_download(model, name, revision=commit)).read_bytes()

    try:
        names = list_repo_files(model, revision=commit)
        return sorted(set(names) - set(needed_files(names, read)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError):
        return []  # only the hub's cache on this machine is available
