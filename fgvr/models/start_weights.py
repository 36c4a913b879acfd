"""Which pretrained weights `makd.weights` names: found and identified before anything large is read.

A file, a folder as timm saves it, the folder of an earlier student, a model on the hub, a tag of timm, which is a model
on the hub, or `demo`: the network of drawn birds that comes with fgvr. What the file holds is compared with the
backbone in `fgvr.models.start_match`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from fgvr import hub, storage
from fgvr.config.model_names import DEMO_MODEL, HUB
from fgvr.demo.paths import BACKBONE_PATH
from fgvr.digests import file_digest
from fgvr.encoders.distilled import KIND as ENCODER
from fgvr.encoders.timm_folder import (
    CONFIG_FILE,
    ENDINGS,
    WEIGHTS,
    TimmFolderError,
    input_facts,
    read_timm_config,
    read_timm_folder,
)
from fgvr.errors import UserError
from fgvr.mllm.choices import ChoiceQuestion
from fgvr.models.base import MODEL_FILE, WEIGHTS_FILE, ModelFolderError, read_file_of_kind, read_model_file

FIELD: Final = "makd.weights"
CHANNELS: Final = 3
SHOWN: Final = 6
"""How many names a message lists."""
Triple = tuple[float, float, float]


class StartError(UserError, ValueError):
    """Pretrained weights cannot be used; the message names the config field and what to do."""


@dataclass(frozen=True)
class StartWeights:
    """Pretrained weights, as they will be read.

    Attributes:
        name: as a message calls them.
        architecture: timm's name without a tag, where the weights say it.
        file: the file on this machine; None until a hub model's files are there.
        mean: of the RGB channels in 0 … 1, which the weights were trained with; None where they do not say.
        std: the standard deviations.
        commit: commit of a hub model.
        labels: classes of an earlier student, in the order of its outputs; None for other weights.
        questions: its aspect questions.
        choices: its multiple-choice questions.
    """

    name: str
    architecture: str | None = None
    file: Path | None = None
    mean: Triple | None = None
    std: Triple | None = None
    commit: str | None = None
    labels: tuple[str, ...] | None = None
    questions: tuple[str, ...] = ()
    choices: tuple[ChoiceQuestion, ...] = ()

    def identity(self) -> dict[str, Any]:
        """What identifies these weights in fingerprints, wherever they lie."""
        if self.commit is not None:
            return {"hub": self.name, "commit": self.commit}
        if self.file is None:
            raise ValueError(f"{self.name} is neither a file nor on the hub")
        choices = [each.texts for each in self.choices]
        stated: dict[str, Any] = {"mean": self.mean, "std": self.std, "labels": self.labels}
        stated |= {"questions": self.questions or None, "choices": choices or None}
        known = {name: value for name, value in stated.items() if value is not None}
        return {"content": file_digest(self.file)[:16], **known}

    def in_files(self) -> StartWeights:
        """For a hub model, the files of its commit, which are fetched; others unchanged. Raises StartError."""
        if self.commit is None:
            return self
        name = self.name.removeprefix(HUB).partition("@")[0]
        try:
            folder = hub.folder_of(name, self.commit, [CONFIG_FILE, WEIGHTS[0]])
            if not (folder / WEIGHTS[0]).exists():
                folder = hub.folder_of(name, self.commit, [CONFIG_FILE, WEIGHTS[1]])
            return replace(self, file=read_timm_folder(folder).weights)
        except (hub.HubError, TimmFolderError) as error:
            raise StartError(f"{FIELD}: {error}") from error


def find_start(weights: str, backbone: str) -> StartWeights:
    """The weights that `makd.weights` names, of the architecture `makd.backbone` as far as they say so.

    Raises:
        StartError: there is no such file, folder or name, or it belongs to another architecture.
    """
    architecture = backbone.partition(".")[0]
    if weights == DEMO_MODEL:
        found = _as_timm_saves(BACKBONE_PATH, "the demo's weights")
    elif weights.startswith(HUB):
        found = _on_hub(weights)
    elif _is_place(weights):
        found = _in_place(weights)
    else:
        found = _tagged(weights, architecture)
    if found.architecture not in {None, architecture}:
        raise StartError(
            f"{FIELD} = {weights}: these are weights of {found.architecture}; take that as makd.backbone, or weights "
            f"of {architecture}; null trains from scratch"
        )
    return found


def _is_place(weights: str) -> bool:
    """Whether the text is a path or URL, and no name."""
    if weights.startswith(("/", ".", "~", "file:")) or "://" in weights or "/" in weights:
        return True
    return weights.lower().endswith(ENDINGS) or Path(weights).exists()


def _in_place(weights: str) -> StartWeights:
    try:
        if weights.lower().endswith(ENDINGS):
            return _file(weights)
        place = storage.local_path(weights).expanduser().absolute() if storage.is_local(weights) else weights
        if isinstance(place, Path) and place.is_file():
            raise StartError(f"{FIELD} = {weights}: the name of a file of weights must end in {', '.join(ENDINGS)}")
        folder = storage.fetch_folder(place)
    except FileNotFoundError:
        raise StartError(
            f"{FIELD} = {weights}: there is nothing at this path. Name a file ({', '.join(ENDINGS)}), a folder as timm "
            f"saves it, a student's model folder, or a hub model ({HUB}owner/name)"
        ) from None
    return _folder(folder, weights)


def _file(weights: str) -> StartWeights:
    file = storage.local_path(weights) if storage.is_local(weights) else storage.fetch_file(weights)
    file = file.expanduser().absolute()
    if not file.exists():
        raise FileNotFoundError(weights)
    if not file.is_file():
        raise StartError(f"{FIELD} = {weights}: this is no file; the name of a folder must not end in {file.suffix}")
    return StartWeights(weights.rstrip("/").rpartition("/")[2], file=file)


def _folder(folder: Path, given: str) -> StartWeights:
    """A student's or a distilled encoder's folder, or the table that holds one, or a folder as timm saves it."""
    name = "/".join(given.rstrip("/").split("/")[-2:])
    for place in (folder, folder / "model"):
        if (place / MODEL_FILE).is_file():
            return _as_timm_saves(place, name) if _is_encoder(place) else _student(place, name)
    if not (folder / CONFIG_FILE).is_file():
        raise StartError(
            f"{FIELD} = {given}: the folder has neither a {MODEL_FILE} (an earlier student) nor a {CONFIG_FILE} (a "
            "model as timm saves it)"
        )
    return _as_timm_saves(folder, name)


def _is_encoder(folder: Path) -> bool:
    """Whether a model's folder is a distilled encoder's: its backbone lies there as timm saves it, without a head."""
    try:
        return bool(read_model_file(folder)["kind"] == ENCODER)
    except ModelFolderError as error:
        raise StartError(f"{FIELD}: {error}") from None


def _as_timm_saves(folder: Path, name: str) -> StartWeights:
    try:
        found = read_timm_folder(folder)
    except TimmFolderError as error:
        raise StartError(f"{FIELD}: {error}") from None
    return _with_input(StartWeights(name, _plain(found.architecture), found.weights), found.data)


def _student(folder: Path, name: str) -> StartWeights:
    try:
        facts = read_file_of_kind(folder, "student", 1, ("backbone", "labels", "questions", "preprocess"))
    except ModelFolderError as error:
        raise StartError(f"{FIELD}: {error}. Only students and encoders can be started from") from None
    file = folder / WEIGHTS_FILE
    if not file.is_file():
        raise StartError(f"{FIELD}: {folder} has no {WEIGHTS_FILE}")
    found = StartWeights(name, _plain(facts["backbone"]), file)
    labels, questions = tuple(facts["labels"]), tuple(facts["questions"])
    choices = tuple(map(ChoiceQuestion.of, facts.get("choices", ())))
    return replace(_with_input(found, facts["preprocess"]), labels=labels, questions=questions, choices=choices)


def _on_hub(weights: str) -> StartWeights:
    """A hub model, `hf-hub:owner/name`, perhaps with `@` and a branch, tag or commit."""
    name, _, revision = weights.removeprefix(HUB).partition("@")
    try:
        place = hub.file_of(name, CONFIG_FILE, revision or None)
        facts = read_timm_config(place)
    except hub.HubError as error:
        raise StartError(
            f"{FIELD}: the Hugging Face hub did not give {weights}: {error}. Without a network, name a file or folder"
        ) from error
    except TimmFolderError as error:
        raise StartError(f"{FIELD} = {weights}: {error}") from None
    found = StartWeights(HUB + name, _plain(facts["architecture"]), commit=place.parent.name)
    return _with_input(found, input_facts(facts.get("pretrained_cfg", facts)))


def _tagged(weights: str, architecture: str) -> StartWeights:
    """A tag of timm's pretrained weights, with or without the architecture: `resnet18.a1_in1k`, `a1_in1k`."""
    import timm

    named, _, tag = weights.rpartition(".")
    if named and named != architecture:
        if timm.is_model(named):
            raise StartError(
                f"{FIELD} = {weights}: these are weights of {named}; take that as makd.backbone, or weights of "
                f"{architecture}"
            )
        tag = ""
    known = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]
    if tag not in known:
        listed = ", ".join(known[:SHOWN]) + (" …" if len(known) > SHOWN else "")
        has = f"timm's tags for {architecture} are {listed}" if known else f"timm has no weights of {architecture}"
        raise StartError(
            f"{FIELD} = {weights}: this is neither a path ({', '.join(ENDINGS)}, or a folder) nor a hub name "
            f"({HUB}owner/name) nor a tag of timm; {has}"
        )
    facts = timm.get_pretrained_cfg(f"{architecture}.{tag}")
    if not facts.hf_hub_id or facts.hf_hub_filename:
        raise StartError(
            f"{FIELD} = {weights}: timm takes these from another place than a hub model of its own; fetch the file "
            "and name it"
        )
    return _on_hub(HUB + facts.hf_hub_id)


def _with_input(found: StartWeights, data: Mapping[str, Any]) -> StartWeights:
    """With mean and standard deviation as `data` states them; raises StartError for images that are not RGB."""
    size = data.get("input_size")
    if isinstance(size, tuple | list) and size and size[0] != CHANNELS:
        raise StartError(channels_refused(found.name, int(size[0])))
    try:
        mean, std = (_triple(data[name]) if data.get(name) is not None else None for name in ("mean", "std"))
    except (TypeError, ValueError):
        raise StartError(
            f"{FIELD}: {found.name}: mean and std must be three numbers each, std above 0, not mean = "
            f"{data.get('mean')}, std = {data.get('std')}"
        ) from None
    if std is not None and min(std) <= 0:
        raise StartError(f"{FIELD}: {found.name}: std = {list(std)} must be above 0")
    return replace(found, mean=mean, std=std)


def channels_refused(name: str, channels: int) -> str:
    """The sentence about weights for images of another number of channels."""
    return (
        f"{FIELD}: {name} is for images of {channels} channel{'s' if channels != 1 else ''}, and photos have "
        f"{CHANNELS} (red, green, blue); take weights that were trained on RGB photos"
    )


def _triple(value: Any) -> Triple:
    red, green, blue = (float(each) for each in value)
    return red, green, blue


def _plain(architecture: str) -> str:
    """The architecture's name without a tag."""
    return architecture.partition(".")[0]
