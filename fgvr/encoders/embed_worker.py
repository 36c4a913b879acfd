"""The worker of the embed stage, from images to vectors; threads read and decode while the encoder runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from fgvr.clip.vectors import embedding_rows
from fgvr.config import ImageLimits, SimulatedVectors
from fgvr.encoders.encoder import EncoderConfig, load_encoder
from fgvr.images.pictures import PictureReader
from fgvr.images.pixels import MIN_CROP, random_view
from fgvr.images.read import ImageError, read_image
from fgvr.precision import Precision
from fgvr.prefetch import read_ahead
from fgvr.schemas import Failure, Reason
from fgvr.simulation import generator, kind_of

log = logging.getLogger(__name__)


Row = tuple[int, str]  # image_id, uri


class EmbedWorker:
    """A PartWorker that computes the embeddings schema.

    Args:
        encoder: the model.
        limits: limits on reading an image.
        batch_images: most images per forward pass (`fgvr.forward_pass`).
        device: where the model runs; None: the GPU if there is one.
        views: 0: one vector for the whole image, with the model's own preprocessing. Above 0: vectors of this many
            augmented views, concatenated in a row's vector.
        seed: seed of the views; seed and image id determine a view.
        min_crop: smallest share of the image's area in a view.
        threads: threads that read and decode; None: one more than the model has.
        precision: precision in which the table was begun; None: the device's default.
    """

    def __init__(
        self,
        *,
        encoder: EncoderConfig,
        limits: ImageLimits,
        batch_images: int,
        device: str | None = None,
        views: int = 0,
        seed: int = 0,
        min_crop: float = MIN_CROP,
        threads: int | None = None,
        precision: Precision | None = None,
    ) -> None:
        self.encoder = load_encoder(encoder, device or ("cuda" if torch.cuda.is_available() else "cpu"), precision)
        self.limits, self.batch_images = limits, batch_images
        self.views, self.seed, self.min_crop = views, seed, min_crop
        self.threads = torch.get_num_threads() + 1 if threads is None else threads

    def process(self, rows: pa.Table) -> pa.Table:
        """One embeddings row per row of `image_id`, `uri`; images that cannot be read become rows with an error."""
        ids = rows["image_id"].to_numpy()
        inputs = list(zip(ids.tolist(), rows["uri"].to_pylist(), strict=True))
        width = self.encoder.dim * max(self.views, 1)
        features = np.zeros((len(inputs), width), np.float32)
        failures: list[Failure | None] = [None] * len(inputs)
        # Prefetch two batches: one waits complete while the model works on the other.
        prepared = read_ahead(self._prepare, inputs, threads=self.threads, ahead=2 * self.batch_images)
        for start, batch in self._batches(prepared):
            good = [place for place, item in enumerate(batch, start) if isinstance(item, Tensor)]
            for place, item in enumerate(batch, start):
                if isinstance(item, Failure):
                    failures[place] = item
            if good:
                pixels = torch.cat([item for item in batch if isinstance(item, Tensor)])
                features[good] = self.encoder.encode(pixels).reshape(len(good), width)
        for place in np.flatnonzero(~np.isfinite(features).all(axis=1)):
            failures[place] = Failure(Reason.ENGINE_ERROR, "the model's features are not finite numbers")
        return embedding_rows(ids, features, failures)

    def _batches(self, prepared: Iterator[Tensor | Failure]) -> Iterator[tuple[int, list[Tensor | Failure]]]:
        start = 0
        while batch := list(islice(prepared, self.batch_images)):
            yield start, batch
            start += len(batch)

    def _prepare(self, row: Row) -> Tensor | Failure:
        """The model's input for one image, float32 [views, 3, H, W], or why there is none."""
        image_id, uri = row
        size = self.encoder.image_size
        try:
            # Crops are enlarged: they need the image at full size.
            image = read_image(uri, self.limits, short_side=None if self.views else self.encoder.short_side)
        except ImageError as error:
            return error.failure
        views = [random_view(image, size, (self.seed, image_id, n), self.min_crop) for n in range(self.views)]
        images = views or [image]
        return torch.stack([self.encoder.preprocess(picture) for picture in images])


# A stand-in for the embed stage's encoder: images are read and decoded, but their vectors are made up.

Vector = npt.NDArray[np.float32]


class SimulatedEmbedWorker:
    """A PartWorker that computes the embeddings schema without a model; see fgvr.part_worker.PartWorker."""

    def __init__(self, *, vectors: SimulatedVectors, limits: ImageLimits, threads: int = 2) -> None:
        """`threads` threads read and decode."""
        log.warning("embed.vectors.kind = simulated: NO CLIP IS USED, every vector is made up")
        self.vectors, self.limits, self.threads = vectors, limits, threads
        self._centre = lru_cache(4096)(self._centre_of)

    def process(self, rows: pa.Table) -> pa.Table:
        """One embeddings row per row of `image_id`, `uri`; images that cannot be read become rows with an error."""
        features = np.zeros((rows.num_rows, self.vectors.dim), np.float32)
        reader = PictureReader(rows["uri"].to_pylist(), self.limits, threads=self.threads)
        for place, picture in reader:
            features[place] = self.vector(picture.content_id)
        failures: list[Failure | None] = [reader.failures.get(place) for place in range(rows.num_rows)]
        return embedding_rows(rows["image_id"].to_numpy(), features, failures)

    def vector(self, content_id: str) -> Vector:
        """The L2-normalised vector of an image: its class centre plus an individual part, float32 [dim]."""
        config = self.vectors
        own = generator("vector", config.seed, content_id).standard_normal(config.dim, np.float32)
        vector = self._centre(kind_of(content_id, config.names, config.seed)) + config.spread * own
        return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)

    def _centre_of(self, kind: int) -> Vector:
        return generator("centre", self.vectors.seed, kind).standard_normal(self.vectors.dim, np.float32)
