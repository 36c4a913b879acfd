"""The teacher of `makd.distillation`: found, checked and identified by its content before anything is computed."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fgvr import storage
from fgvr.config import MLLM_TEACHER, Config, ConfigError, Makd, Mllm, NoDistillation
from pipelines.start_weights import find_weights
from pipelines.train_stage import MODEL_FOLDER

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from fgvr.arrays import Ids
    from fgvr.models.student import StudentSpec
    from fgvr.tables import Table


FIELD = "makd.distillation.teacher"
UNKNOWN_ROWS = 1024


@dataclass(frozen=True)
class StudentModel:
    """An earlier student as the teacher.

    Attributes:
        uri: URI of its model folder.
        spec: its architecture and outputs.
        identity: hash of its weights and of everything else that decides its logits.
    """

    uri: str
    spec: StudentSpec
    identity: str

    def put(self, folder: str, image_ids: Ids) -> None:
        """Copy it to `folder`, which all workers can read, and which remains when the teacher moves."""
        storage.put_folder(storage.fetch_folder(self.uri), folder)


@dataclass(frozen=True)
class MllmTeacher:
    """The MLLM as the teacher, by its scores of the class names.

    Attributes:
        scores: the class_scores table.
    """

    scores: Table

    def put(self, folder: str, image_ids: Ids) -> None:
        """Write the scores of these images (int64 [N], ascending) to `folder`; nan for failed ones."""
        from fgvr.training.teacher import put_scores

        put_scores(folder, self._blocks(image_ids), len(image_ids), self.scores.extra["classes"])

    def _blocks(self, image_ids: Ids) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the scores of the images in order, as blocks float32 [n, C]; holds one part of the table."""
        import numpy as np
        import pyarrow.compute as pc

        from fgvr.training.targets import spread

        classes = self.scores.extra["classes"]
        done = 0
        for part in self.scores.batches(["image_id", "scores", "error"]):
            good = part.filter(pc.is_null(part["error"]))
            values = pc.list_flatten(good["scores"]).to_numpy().astype(np.float32).reshape(-1, classes)
            end = int(np.searchsorted(image_ids, pc.max(part["image_id"]).as_py(), side="right"))
            for start in range(done, end, UNKNOWN_ROWS):  # of a pool, most images between two scored ones have none
                here = image_ids[start : min(start + UNKNOWN_ROWS, end)]
                yield spread(here, good["image_id"].to_numpy(), values, np.nan)
            done = max(done, end)
        for start in range(done, len(image_ids), UNKNOWN_ROWS):  # images after the last one in the table
            yield np.full((len(image_ids[start : start + UNKNOWN_ROWS]), classes), np.nan, dtype=np.float32)


Teacher = StudentModel | MllmTeacher


def asks_mllm(settings: Makd) -> bool:
    """Whether the MLLM is the teacher, by its scores of the class names."""
    return settings.distillation.kind != "none" and settings.distillation.teacher == MLLM_TEACHER


def engine_of(config: Config) -> Mllm:
    """The MLLM that scores class names; raises ConfigError for a model behind a server."""
    if config.mllm.scores_names:
        return config.mllm
    raise ConfigError(
        f"{FIELD} = {MLLM_TEACHER}: chat servers give no probability of an answer that they did not give (mllm.kind = "
        f"{config.mllm.kind}). Take a model that runs in the worker (mllm.kind vllm), or a student's folder as teacher"
    )


def find_teacher(settings: Makd) -> StudentModel | None:
    """The student that teaches, read completely; None without distillation, or where the MLLM teaches.

    Raises:
        ConfigError: the trained student is missing or damaged.
    """
    from fgvr.models.base import MODEL_FILE, WEIGHTS_FILE, ModelFolderError
    from fgvr.models.student import load_student

    if isinstance(settings.distillation, NoDistillation) or asks_mllm(settings):
        return None
    given = storage.absolute(settings.distillation.teacher)
    candidates = (given, storage.join(given, MODEL_FOLDER))  # a model folder, or the table that holds one
    uri = next((folder for folder in candidates if storage.exists(storage.join(folder, MODEL_FILE))), None)
    if uri is None:
        raise ConfigError(
            f"{FIELD} = {given}: neither it nor its {MODEL_FOLDER}/ has a {MODEL_FILE}; name the folder of a finished "
            "table of makd or base, or its model"
        )
    local = storage.fetch_folder(uri)
    try:
        spec, _ = load_student(local)
    except ModelFolderError as error:
        raise ConfigError(f"{FIELD} = {uri}: {error}") from None
    decides = [spec.backbone, spec.backbone_args, spec.preprocess, spec.labels, spec.questions]
    digest = hashlib.sha256(repr(decides).encode())
    digest.update((local / WEIGHTS_FILE).read_bytes())
    return StudentModel(uri, spec, digest.hexdigest())


def check_classes(teacher: StudentModel | None, labels: Sequence[str]) -> None:
    """Raise ConfigError where teacher and student have different classes; None is the MLLM, which takes any classes."""
    if teacher is not None:
        from fgvr.training.teacher import class_order

        class_order(teacher.spec.labels, labels)
    if len(labels) < 2:
        raise ConfigError(
            f"makd.distillation: there is only one class ({', '.join(labels)}) about which a teacher says nothing"
        )


TOLD_OTHERWISE = frozenset({"images", "precision"})
"""Fields of a recipe that a fingerprint holds in resolved form: as the images' ids, as the precision in use."""


def recipe(settings: Makd, teacher: Teacher | None, without: Collection[str] = ()) -> dict[str, Any]:
    """The recipe for a fingerprint, without some fields; a teaching student and weights count by content, not path."""
    fields = settings.deciding().items()
    decided = {name: value for name, value in fields if name not in TOLD_OTHERWISE and name not in without}
    if decided.get("max_steps") is None:  # a newer field: students of earlier versions are still found
        decided.pop("max_steps", None)
    start = find_weights(settings)
    if start is not None and "weights" in decided:
        decided["weights"] = start.identity()
    if isinstance(teacher, StudentModel) and "distillation" in decided:
        decided["distillation"] = {**settings.distillation.model_dump(), "teacher": teacher.identity}
    return decided
