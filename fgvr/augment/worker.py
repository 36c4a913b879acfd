"""The worker of the stage augment: photos are read, pictures made from their edges, and judged."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import simplejpeg
import torch
from PIL import Image

from fgvr import liveness, storage
from fgvr.arrays import Floats
from fgvr.augment.edges import fitted
from fgvr.augment.filters import UNRANKED, Rejection, basic_wins, judged, ranks
from fgvr.augment.generators import GeneratorConfig, load_generator
from fgvr.augment.pictures import Asked, Made, PictureGenerator
from fgvr.clip.model import ClipModel, load_clip
from fgvr.config.data import ImageLimits
from fgvr.config.models import Clip
from fgvr.images.read import ImageError, read_image
from fgvr.models.base import ImageClassifier
from fgvr.models.infer import load_classifier
from fgvr.models.near import ZeroShotClassifier
from fgvr.precision import Precision
from fgvr.prefetch import read_ahead
from fgvr.schemas import SYNTHETIC, Failure, Reason

log = logging.getLogger(__name__)

JPEG_QUALITY = 95


@dataclass(frozen=True)
class JudgeSettings:
    """How pictures are judged; picklable.

    Attributes:
        clip: the model of the basic and negative prompts, and of ranks without another classifier.
        basic: the basic prompt, {} for the name.
        negatives: the negative prompts.
        top_k: worst rank of the name that passes; None: any does.
        names: the C names, for ranks by CLIP without training.
        classifier: folder of the model that ranks the names; None: CLIP without training.
    """

    clip: Clip
    basic: str
    negatives: tuple[str, ...]
    top_k: int | None
    names: tuple[str, ...]
    classifier: str | None = None


class Judge:
    """The filters, with their models loaded."""

    def __init__(self, settings: JudgeSettings, device: str = "cpu", precision: Precision | None = None) -> None:
        self.settings = settings
        self.clip: ClipModel = load_clip(settings.clip, device, precision)
        self._negatives = self.clip.encode_texts(settings.negatives) if settings.negatives else None
        self._basics: dict[str, Floats] = {}
        self.classifier: ImageClassifier | None = None
        if settings.top_k is not None:
            self.classifier = (
                ZeroShotClassifier.of(self.clip, settings.names, settings.clip.template)
                if settings.classifier is None
                else load_classifier(storage.fetch_folder(settings.classifier), device, precision)
            )
            self._numbers = {name: number for number, name in enumerate(self.classifier.labels)}

    def __call__(
        self, pictures: Sequence[Image.Image], names: Sequence[str]
    ) -> tuple[Floats, npt.NDArray[np.int32], list[Rejection | None]]:
        """Cosines with the basic prompt, float32 [n], ranks of the names, int32 [n], and why pictures are rejected."""
        vectors = self.clip.encode_images(pictures)
        cosines = (vectors * np.stack([self._basic(name) for name in names])).sum(axis=1)
        against = np.zeros((len(pictures), 0), np.float32) if self._negatives is None else vectors @ self._negatives.T
        found = np.full(len(pictures), UNRANKED, np.int32)
        if self.classifier is not None:
            own = np.array([self._numbers.get(name, -1) for name in names], np.int64)
            found = ranks(self.classifier.scores(pictures), own)
        known = 0 if self.classifier is None else len(self.classifier.labels)
        verdicts = judged(basic_wins(cosines, against), found, known, self.settings.top_k)
        return cosines.astype(np.float32), found, verdicts

    def _basic(self, name: str) -> Floats:
        text = self.settings.basic.replace("{}", name)
        if text not in self._basics:
            self._basics[text] = self.clip.encode_texts([text])[0]
        return self._basics[text]


@dataclass(frozen=True)
class _Row:
    """A picture's row: what was asked, and what came of it."""

    asked: dict[str, Any]
    made: Made | None = None
    failure: Failure | None = None


class AugmentWorker:
    """The PartWorker of the stage augment; see fgvr.part_worker.PartWorker.

    Args:
        generator: what makes the pictures.
        judging: how they are judged.
        limits: limits on reading a photo.
        batch_images: most pictures that are made together.
        device: where the models run.
        threads: threads that read photos.
        precision: in which the table was begun; None: the device's default.
        loaded: a generator that is loaded already, in place of the configured one.
    """

    def __init__(
        self,
        *,
        generator: GeneratorConfig,
        judging: JudgeSettings,
        limits: ImageLimits,
        batch_images: int,
        device: str = "cpu",
        threads: int = 1,
        precision: Precision | None = None,
        loaded: PictureGenerator | None = None,
    ) -> None:
        self.generator = load_generator(generator, device, precision) if loaded is None else loaded
        self.judge = Judge(judging, device, precision)
        self.limits, self.batch_images, self.threads = limits, batch_images, threads

    def process(self, rows: pa.Table) -> pa.Table:
        """One row of `SYNTHETIC` per row of `fgvr.augment.sources.COLUMNS`, in order."""
        asked = rows.to_pylist()
        read = ("uri", "subject_uri") if self.generator.sees_subjects else ("uri",)
        photos = self._read(sorted({row[column] for row in asked for column in read}))
        done: list[_Row] = [self._begun(row, photos) for row in asked]
        for places in self._batches(done, photos):
            self._make(done, places, photos)
        return self._judged(done)

    def _read(self, uris: Sequence[str]) -> dict[str, Image.Image | Failure]:
        def read(uri: str) -> Image.Image | Failure:
            try:
                image = read_image(uri, self.limits, short_side=self.generator.size)
            except ImageError as error:
                return error.failure
            return fitted(image, self.generator.size, square=self.generator.square)

        return dict(zip(uris, read_ahead(read, uris, threads=self.threads), strict=True))

    def _begun(self, row: dict[str, Any], photos: dict[str, Image.Image | Failure]) -> _Row:
        photo = photos[row["uri"]]
        return _Row(row, failure=photo if isinstance(photo, Failure) else None)

    def _batches(self, done: list[_Row], photos: dict[str, Image.Image | Failure]) -> Iterator[list[int]]:
        """Places of the rows that are made together: those of one size."""
        by_size: dict[tuple[int, int], list[int]] = {}
        for place, row in enumerate(done):
            photo = photos[row.asked["uri"]]
            if not isinstance(photo, Failure):
                by_size.setdefault(photo.size, []).append(place)
        for places in by_size.values():
            for start in range(0, len(places), self.batch_images):
                yield places[start : start + self.batch_images]

    def _make(self, done: list[_Row], places: Sequence[int], photos: dict[str, Image.Image | Failure]) -> None:
        """Make pictures together; where that fails, one by one, so that only the culprit's row fails."""
        wanted = [_asked(done[place].asked, photos) for place in places]
        try:
            made = self.generator.make(wanted)
        except (RuntimeError, ValueError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            if len(places) > 1:
                for place in places:
                    self._make(done, [place], photos)
                return
            failure = Failure(Reason.ENGINE_ERROR, f"the generator failed: {type(error).__name__}: {error}")
            done[places[0]] = _Row(done[places[0]].asked, failure=failure)
        else:
            for place, picture in zip(places, made, strict=True):
                done[place] = _Row(done[place].asked, made=picture)
        liveness.beat()

    def _judged(self, done: Sequence[_Row]) -> pa.Table:
        places = [n for n, row in enumerate(done) if row.made is not None and row.made.rejection is None]
        judged: dict[int, tuple[float, int, Rejection | None]] = {}
        for start in range(0, len(places), 64):
            here = places[start : start + 64]
            pictures = [Image.fromarray(_pixels(done[place])) for place in here]
            cosines, found, verdicts = self.judge(pictures, [done[place].asked["name"] for place in here])
            judged |= zip(here, zip(cosines.tolist(), found.tolist(), verdicts, strict=True), strict=True)
        columns: dict[str, list[Any]] = {name: [] for name in SYNTHETIC.names}
        for place, row in enumerate(done):
            made, verdict = row.made, judged.get(place)
            rejection = None if made is None else made.rejection
            if verdict is not None:
                rejection = verdict[2]
            columns["image"].append(None if made is None or made.pixels is None else _jpeg(made.pixels))
            columns["clip_score"].append(None if verdict is None else verdict[0])
            columns["rank"].append(None if verdict is None or verdict[1] == UNRANKED else verdict[1])
            columns["kept"].append(None if made is None else rejection is None)
            columns["reason"].append(None if rejection is None else rejection.value)
            columns["error"].append(None if row.failure is None else row.failure.as_row())
            for name in ("synthetic_id", "source_id", "name", "prompt", "seed"):
                columns[name].append(row.asked[name])
        return pa.table(columns, schema=SYNTHETIC)


def _asked(row: dict[str, Any], photos: dict[str, Image.Image | Failure]) -> Asked:
    photo, subject = photos[row["uri"]], photos.get(row["subject_uri"])
    if isinstance(photo, Failure):
        raise TypeError("a photo that could not be read")
    seen = subject if isinstance(subject, Image.Image) else photo
    return Asked(photo, seen, row["name"], row["prompt"], int(row["seed"]))


def _pixels(row: _Row) -> npt.NDArray[np.uint8]:
    if row.made is None or row.made.pixels is None:
        raise TypeError("a picture without pixels")
    return row.made.pixels


def _jpeg(pixels: npt.NDArray[np.uint8]) -> bytes:
    data: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=JPEG_QUALITY)
    return data
