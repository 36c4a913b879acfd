"""An adapter from beginning to end, in a worker: read the photos, ask, train, ask again, judge, keep what came out."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fgvr import liveness, storage
from fgvr.adapt.rewards import rewards
from fgvr.adapt.training import STATE, Photos, Recipe, Step, Told, adapt, answers_of, judged, load, save
from fgvr.config.data import ImageLimits
from fgvr.config.models import VllmBackend
from fgvr.images.pictures import PictureReader
from fgvr.mllm.adapter_folder import AdapterError, Verdict
from fgvr.names.aliases import AliasTable
from fgvr.schemas import Failure

if TYPE_CHECKING:
    from PIL.Image import Image

AT_ONCE = 32
"""Photos that are read and asked about together: all that judge would not fit into memory."""


@dataclass(frozen=True)
class Named:
    """Photos by their places, with trusted names."""

    uris: Sequence[str]
    names: Sequence[str]


@dataclass(frozen=True)
class AdaptJob:
    """What a worker needs to know.

    Attributes:
        model: the model to adapt, pinned to its commit.
        learned: photos to learn from.
        judged: photos to judge the adapter on.
        aliases: of the label space.
        recipe: how it is trained.
        side: longest side of a photo in pixels.
        limits: of reading images.
        threads: that read and decode them.
        training: folder of the checkpoints.
        adapter: folder to write the adapter to.
        confidence: see `Verdict`.
        min_gain: see `Verdict`.
    """

    model: VllmBackend
    learned: Named
    judged: Named
    aliases: AliasTable
    recipe: Recipe
    side: int
    limits: ImageLimits
    threads: int
    training: str
    adapter: str
    confidence: float
    min_gain: float


@dataclass(frozen=True)
class Asked:
    """Greedy answers about the judging photos, None about one that could not be read, and whether each is right."""

    answers: Sequence[str | None]
    right: Sequence[bool | None]


@dataclass(frozen=True)
class Adapted:
    """What came out.

    Attributes:
        verdict: of the photos that could be read.
        before: what the model itself said.
        after: what it said with the adapter.
        steps: every step of the training.
        learned_failures: by position among the photos to learn from.
        judged_failures: by position among those that judge.
    """

    verdict: Verdict
    before: Asked
    after: Asked
    steps: Sequence[Step]
    learned_failures: dict[int, Failure] = field(default_factory=dict)
    judged_failures: dict[int, Failure] = field(default_factory=dict)


def run_job(job: AdaptJob, told: Told | None = None) -> Adapted:
    """Train the adapter of a job and judge it; a training that was begun goes on from its last checkpoint.

    Raises:
        AdapterError: too few photos can be read, or see `adapt`.
    """
    from fgvr.mllm.vllm_engine import model_files

    with liveness.doing("loading the model"):
        base = model_files.find(job.model).folder
        model, processor = load(base)
        if job.recipe.gpu:
            model = model.to("cuda")
    images, learned_failures = _read(job.learned.uris, job)
    names = [name for at, name in enumerate(job.learned.names) if at not in learned_failures]
    before, judged_failures = _ask(model, processor, job)
    if not any(right is not None for right in before.right):
        raise AdapterError("adapt: none of the photos that judge the adapter can be read")
    with tempfile.TemporaryDirectory(prefix="fgvr-adapt-") as place:
        folder = _fetched(job.training, Path(place, "training"))
        model, steps = adapt(
            model,
            processor,
            Photos(images, names),
            job.recipe,
            folder,
            aliases=job.aliases,
            told=told,
            kept=None if storage.is_local(job.training) else lambda kept: _send(kept, job.training),
        )
        after, _ = _ask(model, processor, job)
        there = [at for at, right in enumerate(before.right) if right is not None and after.right[at] is not None]
        was, became = (np.array([asked.right[at] for at in there], np.float64) for asked in (before, after))
        verdict = judged(was, became, job.recipe.seed, confidence=job.confidence, min_gain=job.min_gain)
        save(model, Path(place, "adapter"), base, verdict)
        storage.put_folder(Path(place, "adapter"), job.adapter)
    return Adapted(verdict, before, after, steps, learned_failures, judged_failures)


def _fetched(training: str, temporary: Path) -> Path:
    """A local folder with the last whole checkpoint of a store; the folder itself where it is local."""
    if storage.is_local(training):
        return storage.local_path(training)
    temporary.mkdir(parents=True)
    names = [name for name in storage.list_entries(training)[1] if name.startswith("checkpoint-")]
    for name in sorted(names, key=lambda name: int(name.rpartition("-")[2]), reverse=True):
        if storage.exists(storage.join(training, name, STATE)):
            shutil.copytree(storage.fetch_folder(storage.join(training, name)), temporary / name)
            break
    return temporary


def _send(checkpoint: Path, training: str) -> None:
    """Upload a checkpoint: in the order of the names, so that what is needed beside `STATE` is there before it."""
    storage.put_folder(checkpoint, storage.join(training, checkpoint.name))


def _read(uris: Sequence[str], job: AdaptJob) -> tuple[list[Image], dict[int, Failure]]:
    """The photos that can be read, RGB and shrunk, in order, and why the others cannot."""
    reader = PictureReader(uris, job.limits, threads=job.threads)
    images = []
    for _, picture in reader:
        image = picture.image.convert("RGB")
        image.thumbnail((job.side, job.side))
        images.append(image)
        liveness.beat()
    return images, reader.failures


def _ask(model: Any, processor: Any, job: AdaptJob) -> tuple[Asked, dict[int, Failure]]:
    """Greedy answers about the judging photos, a few photos at a time."""
    uris, names = job.judged.uris, job.judged.names
    answers: list[str | None] = [None] * len(uris)
    right: list[bool | None] = [None] * len(uris)
    failures: dict[int, Failure] = {}
    for start in range(0, len(uris), AT_ONCE):
        images, failed = _read(uris[start : start + AT_ONCE], job)
        failures |= {start + at: why for at, why in failed.items()}
        places = [at for at in range(start, min(start + AT_ONCE, len(uris))) if at not in failures]
        said = answers_of(
            model, processor, images, max_tokens=job.recipe.max_tokens, batch=AT_ONCE, prompt=job.recipe.prompt
        )
        found = [each[0] for each in said]
        for at, answer, reward in zip(
            places, found, rewards(found, [names[at] for at in places], job.aliases), strict=True
        ):
            answers[at], right[at] = answer, reward > 0
    return Asked(answers, right), failures
