"""In place of the embed stage's CLIP: images are read and decoded, and their vectors are made up."""

from __future__ import annotations

import logging
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fgvr.config.data import ImageLimits
from fgvr.config.models import SimulatedVectors
from fgvr.embeddings import embedding_rows
from fgvr.mllm.pictures import PictureReader
from fgvr.schemas import Failure
from fgvr.simulation import generator, kind_of

log = logging.getLogger(__name__)

Vector = npt.NDArray[np.float32]


class SimulatedEmbedWorker:
    """A PartWorker that computes the embeddings schema without a model; see fgvr.part_worker.PartWorker."""

    def __init__(self, *, vectors: SimulatedVectors, limits: ImageLimits, threads: int = 2) -> None:
        """`threads` read and decode."""
        log.warning("embed.vectors.kind = simulated: NO CLIP IS USED, every vector is made up")
        self.vectors, self.limits, self.threads = vectors, limits, threads
        self._centre = lru_cache(4096)(self._centre_of)

    def process(self, rows: pa.Table) -> pa.Table:
        """One embeddings row for each row of `image_id`, `uri`; images that cannot be read are rows with an error."""
        features = np.zeros((rows.num_rows, self.vectors.dim), np.float32)
        reader = PictureReader(rows["uri"].to_pylist(), self.limits, threads=self.threads)
        for place, picture in reader:
            features[place] = self.vector(picture.content_id)
        failures: list[Failure | None] = [reader.failures.get(place) for place in range(rows.num_rows)]
        return embedding_rows(rows["image_id"].to_numpy(), features, failures)

    def vector(self, content_id: str) -> Vector:
        """The L2-normalised vector of an image: the centre of its kind and what is its own, float32 [dim]."""
        config = self.vectors
        own = generator("vector", config.seed, content_id).standard_normal(config.dim, np.float32)
        vector = self._centre(kind_of(content_id, config.names, config.seed)) + config.spread * own
        return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)

    def _centre_of(self, kind: int) -> Vector:
        return generator("centre", self.vectors.seed, kind).standard_normal(self.vectors.dim, np.float32)
