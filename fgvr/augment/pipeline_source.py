"""Which diffusion pipeline a config names; found and checked before anything large is loaded.

A pipeline is a folder of folders: `model_index.json` names the class of each part, and each network's folder holds its
weights. Weights that are pickles are refused, since loading one runs what it says, and so are parts whose class lies
outside of diffusers and transformers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from fgvr import hub, storage
from fgvr.config.augment import DiffusionModel
from fgvr.config.model_names import HUB, LOCAL
from fgvr.digests import file_digest, folder_digest
from fgvr.errors import UserError

FIELD: Final = "augment.generator"
INDEX: Final = "model_index.json"
CONTROLNET: Final = "controlnet"
CONFIG_FILE: Final = "config.json"
SAFE: Final = ".safetensors"
PICKLES: Final = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".msgpack")
HALF: Final = "fp16"
"""Variant of weights: `diffusion_pytorch_model.fp16.safetensors`."""
SAFETY: Final = "safety_checker"
IMAGE_ENCODER: Final = "image_encoder"
"""Folder beside the weights of an IP-Adapter."""
NETWORKS: Final[dict[str, tuple[str, ...]]] = {
    "sd15": ("unet", "vae", "text_encoder"),
    "sdxl": ("unet", "vae", "text_encoder", "text_encoder_2"),
}
"""Folders with weights that each kind of pipeline needs beside the ControlNet."""
FURTHER: Final[dict[str, tuple[str, ...]]] = {
    "sd15": ("tokenizer", "scheduler"),
    "sdxl": ("tokenizer", "tokenizer_2", "scheduler"),
}
"""Folders without weights that it needs."""
LIBRARIES: Final = {"diffusers", "transformers", "stable_diffusion"}
"""Where the class of a part may lie; the last is a name of diffusers' own."""
_HUB_FILES: Final = {
    "model": (INDEX, "*/*.json", "*/*.txt", "*/*.model", f"*/*{SAFE}"),
    "controlnet": (CONFIG_FILE, f"diffusion_pytorch_model*{SAFE}"),
}
"""What is fetched of a hub model: not the whole checkpoints in one file that many have beside the folders."""


class GeneratorError(UserError, ValueError):
    """A generator cannot be used; the message names the config field and what to do."""


def check_diffusers() -> None:
    """Raises GeneratorError where the extra `augment` is not installed."""
    if find_spec("diffusers") is None:
        raise GeneratorError(
            f"{FIELD}.kind = diffusers: the package diffusers is not installed here. The extra `augment` brings it: "
            "pip install -e '.[augment]', on every machine whose workers generate"
        )


@dataclass(frozen=True)
class Found:
    """A model's folder on this machine, or a commit on the hub whose files are not fetched yet."""

    name: str
    folder: Path | None = None
    commit: str | None = None

    def identity(self) -> dict[str, str]:
        """What identifies it in fingerprints, wherever its files lie."""
        if self.folder is not None:
            return {"files": folder_digest(self.folder)}
        return {"name": self.name, "commit": str(self.commit)}


@dataclass(frozen=True)
class PipelineSource:
    """A pipeline and its ControlNet.

    Attributes:
        config: the part that names them.
        model: the pipeline.
        controlnet: None: it lies in the pipeline's folder.
        subject: weights of an IP-Adapter, if there is one.
    """

    config: DiffusionModel
    model: Found
    controlnet: Found | None
    subject: Path | None = None

    def identity(self) -> dict[str, Any]:
        """What identifies all of it in fingerprints."""
        beside = None if self.controlnet is None else self.controlnet.identity()
        subject = {}
        if self.subject is not None:
            encoder = folder_digest(self.subject.with_name(IMAGE_ENCODER))
            subject = {"subject": [file_digest(self.subject)[:16], encoder]}
        return {"model": self.model.identity(), "controlnet": beside, **subject}

    def in_files(self) -> PipelineSource:
        """Both as folders on this machine, checked; files of a commit are fetched.

        Raises:
            GeneratorError: the hub does not give them, or they are not what the config says.
        """
        model = _fetched(self.model, "model")
        beside = None if self.controlnet is None else _fetched(self.controlnet, "controlnet")
        check_folders(self.config, model, beside)
        return replace(
            self,
            model=Found(self.model.name, model),
            controlnet=None if beside is None or self.controlnet is None else Found(self.controlnet.name, beside),
        )

    @property
    def folder(self) -> Path:
        """Of the pipeline, once it is on this machine."""
        if self.model.folder is None:
            raise ValueError("the pipeline's files are not fetched yet")
        return self.model.folder

    @property
    def controlnet_folder(self) -> Path:
        """Of the ControlNet, likewise."""
        if self.controlnet is None:
            return self.folder / CONTROLNET
        if self.controlnet.folder is None:
            raise ValueError("the ControlNet's files are not fetched yet")
        return self.controlnet.folder


def find_pipeline(config: DiffusionModel) -> PipelineSource:
    """The pipeline that the config names; a local folder is checked, of a hub name only the commit is looked up.

    Raises:
        GeneratorError: nothing is named, there is no such folder or name, or the folder is not that of such a pipeline.
    """
    if config.model is None:
        raise GeneratorError(
            f"{FIELD}.model: name the folder of a diffusers pipeline, or a hub name (hf-hub:…), and a ControlNet as "
            f"{FIELD}.controlnet; {FIELD}.kind drawn draws birds of the field guide instead"
        )
    model = _find(config.model, config.revision, INDEX, "model")
    beside = None
    if config.controlnet is not None:
        beside = _find(config.controlnet, config.controlnet_revision, CONFIG_FILE, "controlnet")
    if model.folder is not None:
        check_folders(config, model.folder, None if beside is None else beside.folder, on_hub=beside is not None)
    return PipelineSource(config, model, beside, None if config.subject is None else _find_subject(config.subject))


def pinned(config: DiffusionModel) -> DiffusionModel:
    """The same with hub names pinned to their current commits, for workers that load them later."""
    found = find_pipeline(config)
    beside = None if found.controlnet is None else found.controlnet.commit
    commits = {"revision": found.model.commit, "controlnet_revision": beside}
    return config.model_copy(update={name: commit for name, commit in commits.items() if commit is not None})


def check_folders(config: DiffusionModel, model: Path, controlnet: Path | None, *, on_hub: bool = False) -> None:
    """Check that a folder is a pipeline of the kind that the config says, and that there is a ControlNet.

    Args:
        config: the part that names them.
        model: the pipeline's folder.
        controlnet: the ControlNet's own folder; None: it is in the pipeline's, or still on the hub.
        on_hub: whether it is on the hub where `controlnet` is None.

    Raises:
        GeneratorError: the message says what is missing.
    """
    index = _read_index(model)
    for part, (library, kind) in index.items():
        if library is not None and library not in LIBRARIES:
            raise GeneratorError(
                f"{FIELD}.model: {model / INDEX} takes the class of {part} from {library}.{kind}: only those of "
                "diffusers and transformers are loaded, since others may run any program"
            )
    for part in (*NETWORKS[config.pipeline], *FURTHER[config.pipeline]):
        if not (model / part).is_dir():
            raise GeneratorError(
                f"{FIELD}.model: {model} has no folder {part}, which {FIELD}.pipeline = {config.pipeline} needs; is it "
                "a pipeline of another kind?"
            )
    for part in (*NETWORKS[config.pipeline], *((SAFETY,) if has_safety_checker(model) else ())):
        _check_weights(model / part, "model")
    if controlnet is not None:
        _check_controlnet(controlnet, "controlnet")
    elif not on_hub:
        if not (model / CONTROLNET).is_dir():
            raise GeneratorError(
                f"{FIELD}.controlnet: {model} has no ControlNet in it (folder {CONTROLNET}); name one for Canny edges, "
                "a folder or hf-hub:lllyasviel/sd-controlnet-canny for Stable Diffusion 1.5"
            )
        _check_controlnet(model / CONTROLNET, "model")


def has_safety_checker(folder: Path) -> bool:
    """Whether a pipeline's folder brings a safety checker, which is then used."""
    return _read_index(folder).get(SAFETY, (None, None))[0] is not None and (folder / SAFETY).is_dir()


def variant_of(folder: Path) -> str | None:
    """The variant of the weights in a network's folder: None for plain ones, else fp16 where only these are there."""
    files = [file.name for file in folder.glob(f"*{SAFE}")]
    return HALF if files and all(f".{HALF}." in name for name in files) else None


def _find(name: str, revision: str | None, file: str, field: str) -> Found:
    if name.startswith(HUB):
        try:
            return Found(name, commit=hub.commit_of(name.removeprefix(HUB), file, revision))
        except hub.HubError as error:
            raise GeneratorError(f"{FIELD}.{field}: the Hugging Face hub did not give {name}: {error}") from error
    if revision is not None:
        at = "revision" if field == "model" else f"{field}_revision"
        raise GeneratorError(f"{FIELD}.{at} = {revision}: only hub models ({HUB}…) have revisions")
    place = name.removeprefix(LOCAL)
    try:
        folder = storage.fetch_folder(storage.local_path(place).expanduser() if storage.is_local(place) else place)
    except FileNotFoundError as error:
        raise GeneratorError(f"{FIELD}.{field}: {error}") from None
    if not folder.is_dir():
        raise GeneratorError(f"{FIELD}.{field} = {name}: there is no such folder (hub names begin with {HUB})")
    return Found(name.rstrip("/").rpartition("/")[2], folder.absolute())


def _find_subject(name: str) -> Path:
    """The weights of an IP-Adapter, with an image encoder beside them."""
    file = storage.local_path(name).expanduser().absolute()
    if not (file.is_file() and file.suffix == SAFE):
        raise GeneratorError(f"{FIELD}.subject = {name}: expected a {SAFE} file with the weights of an IP-Adapter")
    _check_weights(file.with_name(IMAGE_ENCODER), "subject")
    return file


def _fetched(found: Found, field: str) -> Path:
    if found.folder is not None:
        return found.folder
    try:
        return hub.folder_of(found.name.removeprefix(HUB), str(found.commit), _HUB_FILES[field])
    except hub.HubError as error:
        raise GeneratorError(f"{FIELD}.{field}: {error}") from error


def _read_index(folder: Path) -> dict[str, tuple[str | None, str | None]]:
    """Part → library and class, of a pipeline's `model_index.json`."""
    content = _read_json(
        folder / INDEX, "model", f"it is no folder of a diffusers pipeline, which begins with a file {INDEX}"
    )
    return {
        part: (stated[0], stated[1])
        for part, stated in content.items()
        if isinstance(stated, list)
        and len(stated) == 2
        and all(each is None or isinstance(each, str) for each in stated)
    }


def _read_json(file: Path, field: str, missing: str) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise GeneratorError(f"{FIELD}.{field}: {file.parent}: {missing}") from None
    except ValueError as error:
        raise GeneratorError(f"{FIELD}.{field}: {file} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise GeneratorError(f"{FIELD}.{field}: {file} holds no JSON object")
    return content


def _check_controlnet(folder: Path, field: str) -> None:
    content = _read_json(folder / CONFIG_FILE, field, f"it is no folder of a ControlNet, which has a {CONFIG_FILE}")
    if content.get("_class_name") != "ControlNetModel":
        raise GeneratorError(
            f"{FIELD}.{field}: {folder / CONFIG_FILE} describes {content.get('_class_name')}, and no ControlNetModel"
        )
    _check_weights(folder, field)


def _check_weights(folder: Path, field: str) -> None:
    names = sorted(file.name for file in folder.iterdir() if file.is_file()) if folder.is_dir() else []
    if any(name.endswith(SAFE) for name in names):
        return
    pickles = [name for name in names if name.endswith(PICKLES)]
    if pickles:
        raise GeneratorError(
            f"{FIELD}.{field}: {folder} holds its weights as {pickles[0]} alone. Such files can run any program when "
            f"they are loaded, so only {SAFE} is: convert it where you trust it "
            "(DiffusionPipeline.save_pretrained(folder, safe_serialization=True))"
        )
    raise GeneratorError(f"{FIELD}.{field}: {folder} holds no weights ({SAFE})")
