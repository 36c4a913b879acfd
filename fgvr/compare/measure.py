"""Everything that is measured of one trained student: on photos of some sources, and of the network itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fgvr.arrays import Floats, Ids
from fgvr.compare import cost
from fgvr.compare.gradients import GROUPS, gradient_activity
from fgvr.compare.quality import Measure, accuracies, finite, macro_f1, ranks_of, silhouette
from fgvr.config import ImageLimits
from fgvr.errors import UserError
from fgvr.failures import allowed_failures
from fgvr.images.read import ImageError
from fgvr.models.student import StudentClassifier, load_student
from fgvr.names.spelling import fold_name
from fgvr.prefetch import read_ahead
from fgvr.schemas import Failure
from fgvr.storage import fetch_folder

BATCH = 64
BATCHES = (1, BATCH)
"""Photos per batch of which times are measured."""
PULLED = 64
"""Photos of which gradient activity is measured."""


class ComparisonError(UserError, ValueError):
    """The students cannot be compared on these photos; the message says why."""


@dataclass(frozen=True)
class Tested:
    """Photos to test on.

    Attributes:
        source: where they are from, as the table names it.
        ids: int64 [N].
        uris: where they lie.
        true: their true names.
    """

    source: str
    ids: Ids
    uris: Sequence[str]
    true: Sequence[str]


@dataclass(frozen=True)
class MeasureJob:
    """What a worker needs to measure a student; picklable.

    Attributes:
        model: URI of the student's folder.
        costs: whether times, memory and the like are measured, which are the same for all trainings of a backbone.
        tested: the photos, by source.
        limits: on reading a photo.
        device: `cuda` or `cpu`.
        threads: of the CPU.
        resamples: of the bootstrap.
        silhouette_images: most photos of a silhouette.
        seed: of bootstrap and silhouette.
        max_error_share: allowed share of photos that cannot be read.
    """

    model: str
    costs: bool
    tested: Sequence[Tested]
    limits: ImageLimits
    device: str
    threads: int
    resamples: int
    silhouette_images: int
    seed: int
    max_error_share: float


@dataclass(frozen=True)
class Measured:
    """What came out.

    Attributes:
        quality: source → its measures.
        costs: measures of the network itself.
        ids: source → the photos that could be read, int64 [n].
        ranks: source → the place of the true name of each, int64 [n]; see `quality.ranks_of`.
        said: source → the best name of each.
        device: where it was measured, with threads and precision, in words.
    """

    quality: Mapping[str, list[Measure]]
    costs: list[Measure]
    ids: Mapping[str, Ids]
    ranks: Mapping[str, Ids]
    said: Mapping[str, list[str]]
    device: str

    def to_json(self) -> dict[str, Any]:
        """As JSON types, which `of_json` reads."""
        return {
            "quality": {source: list(map(asdict, measures)) for source, measures in self.quality.items()},
            "costs": list(map(asdict, self.costs)),
            "ids": {source: ids.tolist() for source, ids in self.ids.items()},
            "ranks": {source: ranks.tolist() for source, ranks in self.ranks.items()},
            "said": dict(self.said),
            "device": self.device,
        }

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> Measured:
        """What `to_json` wrote."""
        return cls(
            {source: [Measure(**each) for each in measures] for source, measures in content["quality"].items()},
            [Measure(**each) for each in content["costs"]],
            {source: np.array(ids, np.int64) for source, ids in content["ids"].items()},
            {source: np.array(ranks, np.int64) for source, ranks in content["ranks"].items()},
            content["said"],
            content["device"],
        )


@dataclass
class _Read:
    """Readable photos as the network's inputs, and the reasons of the others."""

    kept: list[int] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)


def measure_students(jobs: Sequence[MeasureJob]) -> list[Measured]:
    """Measure several students, one after the other in one process; see `measure_student`."""
    return [measure_student(job) for job in jobs]


def measure_student(job: MeasureJob) -> Measured:
    """Measure a student on this machine.

    Raises:
        ComparisonError: more photos cannot be read than `max_error_share` allows.
    """
    torch.set_num_threads(job.threads)
    folder = fetch_folder(job.model)
    classifier = StudentClassifier.load(folder, job.device)
    costs = list(_costs(classifier, folder)) if job.costs else []
    quality: dict[str, list[Measure]] = {}
    ids: dict[str, Ids] = {}
    ranks: dict[str, Ids] = {}
    said: dict[str, list[str]] = {}
    pulled: list[Measure] = []
    for photos in job.tested:
        read = _Read()
        scores, vectors, some = _answers(classifier, photos, job, read)
        true = [photos.true[place] for place in read.kept]
        source = photos.source
        ids[source], ranks[source] = photos.ids[read.kept], ranks_of(scores, classifier.labels, true)
        said[source] = [classifier.labels[best] for best in scores.argmax(axis=1).tolist()]
        quality[source] = [
            *accuracies(ranks[source], len(classifier.labels), resamples=job.resamples, seed=job.seed),
            macro_f1(said[source], true),
            silhouette(vectors, true, most=job.silhouette_images, seed=job.seed),
            Measure("photos", float(len(true)), "; ".join(_left_out(classifier, read, true))),
        ]
        if not finite(scores).all():
            note = "some outputs are not finite: the training went astray"
            quality[source] = [Measure(each.metric, None, note) for each in quality[source]]
        pulled = pulled or list(_activity(classifier, folder, some, true))
    return Measured(quality, [*costs, *pulled], ids, ranks, said, _in_words(classifier))


def _answers(
    classifier: StudentClassifier, photos: Tested, job: MeasureJob, read: _Read
) -> tuple[Floats, Floats | None, Tensor]:
    """Scores [n, C], vectors in front of the classifier [n, D], and the first inputs, uint8 [≤ 64, S, S, 3]."""

    def prepared(uri: str) -> Tensor | Failure:
        try:
            return classifier.read(uri, job.limits)
        except ImageError as error:
            return error.failure

    side = classifier.spec.preprocess.input_size
    seen, scores = _Seen(classifier.model), [np.zeros((0, len(classifier.labels)), np.float32)]
    some: list[Tensor] = []
    waiting: list[Tensor] = []

    def ask() -> None:
        pixels = torch.stack(waiting)
        if not some:
            some.append(pixels)
        scores.append(classifier.predict(pixels).scores)
        waiting.clear()

    with seen:
        for place, image in enumerate(read_ahead(prepared, photos.uris, threads=max(2, job.threads), ahead=2 * BATCH)):
            if isinstance(image, Failure):
                read.failed[image.reason.value] += 1
                continue
            read.kept.append(place)
            waiting.append(image)
            if len(waiting) == BATCH:
                ask()
        if waiting:
            ask()
    unread = len(photos.uris) - len(read.kept)
    if not read.kept or unread > allowed_failures(job.max_error_share, len(photos.uris)):
        raise ComparisonError(
            f"{_unread(read.failed)} of the {len(photos.uris):,} photos of {photos.source}: more than "
            "run.max_error_share allows"
        )
    first = some[0] if some else torch.zeros((0, side, side, 3), dtype=torch.uint8)
    return np.concatenate(scores), seen.vectors(len(read.kept)), first


class _Seen:
    """Keeps what goes into a network's classifier while it is used."""

    def __init__(self, network: nn.Module) -> None:
        find = getattr(network, "get_classifier", None)
        last = find() if callable(find) else None
        self.last = last if isinstance(last, nn.Module) and not isinstance(last, nn.Identity) else None
        self.found: list[Floats] = []

    def __enter__(self) -> None:
        if self.last is not None:
            self.hook = self.last.register_forward_pre_hook(self._keep)

    def __exit__(self, *_: object) -> None:
        if self.last is not None:
            self.hook.remove()

    def _keep(self, _: nn.Module, given: tuple[Any, ...]) -> None:
        self.found.append(given[0].detach().float().flatten(1).cpu().numpy())

    def vectors(self, photos: int) -> Floats | None:
        """Float32 [n, D]; None where the layer does not see one vector per photo."""
        whole = np.concatenate(self.found) if self.found else None
        return whole if whole is not None and len(whole) == photos else None


def _costs(classifier: StudentClassifier, folder: Path) -> Iterator[Measure]:
    network, side = classifier.model, classifier.spec.preprocess.input_size
    yield Measure("parameters", float(cost.parameters(network)))
    yield Measure("macs", float(cost.multiply_adds(network, side)))
    for batch in BATCHES:
        yield Measure(f"ms_batch{batch}", cost.milliseconds(classifier, batch))
    peak = cost.peak_mib(classifier, folder, BATCH)
    yield Measure("memory_mib", peak, "" if peak is not None else "this system does not tell a process's peak")


def _activity(classifier: StudentClassifier, folder: Path, pixels: Tensor, true: Sequence[str]) -> Iterator[Measure]:
    place = {fold_name(label): number for number, label in enumerate(classifier.labels)}
    classes = [place.get(fold_name(name), -1) for name in true[: min(PULLED, len(pixels))]]
    known = [row for row, number in enumerate(classes) if number >= 0]
    if not known:
        yield from (Measure(f"gradient_{name}", None, "no photo of a learned name") for name in GROUPS)
        return
    inputs = classifier.spec.preprocess.normalise(pixels[known].to(classifier.device))
    targets = torch.tensor([classes[row] for row in known], device=classifier.device)
    # Loaded anew: some networks keep tensors of their first pass, which here was one without gradients.
    _, network = load_student(folder, classifier.device)
    found = gradient_activity(network, inputs, targets, len(classifier.labels))
    yield from (Measure(f"gradient_{name}", value) for name, value in found.items())


def _left_out(classifier: StudentClassifier, read: _Read, true: Sequence[str]) -> Iterator[str]:
    """What of the photos nobody can get right, or was not asked about."""
    if read.failed:
        yield _unread(read.failed)
    learned = {fold_name(label) for label in classifier.labels}
    if new := sum(fold_name(name) not in learned for name in true):
        yield f"{new:,} are of names that were not learned"


def _unread(failed: Counter[str]) -> str:
    if not failed:
        return ""
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(failed.items()))
    return f"{failed.total():,} could not be read ({reasons})"


def _in_words(classifier: StudentClassifier) -> str:
    if classifier.device.type == "cuda":
        return f"{torch.cuda.get_device_name(classifier.device)}, {classifier.precision}"
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'' if threads == 1 else 's'}, {classifier.precision}"
