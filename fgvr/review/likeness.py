"""Photos that look like a photo or like a text, and a map of a sample, from the vectors that the run has stored.

Vectors are read part by part: a search holds one part and the best so far. Of more photos than `MOST` a search looks at
evenly chosen parts, and says at how many.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow.compute as pc

from fgvr import storage, tables
from fgvr.arrays import Doubles, Floats, Ids
from fgvr.errors import UserError
from fgvr.tables import Table

MOST: Final = 3_000_000
"""Photos that a search looks at."""
SHOWN: Final = 600
"""Photos that a search returns."""
MAPPED: Final = 1_000
"""Photos on the map: t-SNE of so many takes some seconds on an idle core."""
HALVED: Final = 5_000
"""Most photos of a name that are parted into two groups that look alike."""
COMPONENTS: Final = 30

Encode = Callable[[str], Floats]
"""A text's vector of length 1, float32 [d]."""


class NoVectors(UserError):
    """What was asked for needs vectors that the run does not have; the message says which."""


@dataclass(frozen=True)
class Likes:
    """What a search found.

    Attributes:
        ids: image ids, the most alike first, int64 [at most SHOWN].
        looked: at how many photos it looked.
        photos: how many have a vector.
    """

    ids: Ids
    looked: int
    photos: int


class Likeness:
    """Searches a run's vectors.

    Attributes:
        encode: the text tower of the encoder that made the vectors; None where it has none.
    """

    def __init__(self, embeddings: Table | None, encode: Encode | None = None) -> None:
        self._embeddings, self.encode = embeddings, encode
        self._lock = threading.Lock()

    @property
    def embeddings(self) -> Table:
        """The table of vectors; raises NoVectors."""
        if self._embeddings is None:
            raise NoVectors("this run has no vectors of its photos yet (the table embeddings is not finished)")
        return self._embeddings

    def of_photo(self, image_id: int) -> Likes:
        """Photos that look like one of the run; raises NoVectors where it has no vector itself."""
        ids, vectors = self.vectors(np.array([image_id], np.int64))
        if not len(ids):
            raise NoVectors("this photo has no vector: it could not be read, or is not of a split that is embedded")
        found = self._search(vectors[0])
        return Likes(found.ids[found.ids != image_id], found.looked, found.photos)

    def of_text(self, text: str) -> Likes:
        """Photos that look like what a text says; raises NoVectors where the encoder has no text tower."""
        _ = self.embeddings
        if self.encode is None:
            raise NoVectors("photos can be found by a text only where CLIP made the vectors (embed.vectors.kind clip)")
        with self._lock:  # one model, one text at a time
            vector = self.encode(text)
        return self._search(vector)

    def vectors(self, ids: Ids) -> tuple[Ids, Floats]:
        """Those of `ids` that have a vector, and their vectors of length 1, float32 [n, d]."""
        rows = self.embeddings.find(ids)
        rows = rows.filter(pc.is_null(rows["error"]))
        return rows["image_id"].to_numpy(), _unit(tables.vectors(rows["vector"]))

    def _parts(self) -> Iterator[tuple[Ids, Floats]]:
        table = self.embeddings
        step = max(1, -(-table.rows // MOST))
        for number in range(0, table.parts, step):
            rows = tables.read_part(table.uri, number, ["image_id", "vector", "error"])
            rows = rows.filter(pc.is_null(rows["error"]))
            yield rows["image_id"].to_numpy(), _unit(tables.vectors(rows["vector"]))

    def _search(self, vector: Floats) -> Likes:
        ids, scores, looked = np.zeros(0, np.int64), np.zeros(0, np.float32), 0
        for own, vectors in self._parts():
            looked += len(own)
            ids, scores = np.concatenate([ids, own]), np.concatenate([scores, vectors @ vector])
            if len(ids) > SHOWN:
                best = np.argpartition(-scores, SHOWN)[:SHOWN]
                ids, scores = ids[best], scores[best]
        order = np.lexsort((ids, -scores))
        return Likes(ids[order], looked, self.embeddings.rows - self.embeddings.failed)

    def smaller_half(self, ids: Ids) -> Ids:
        """Of photos in two groups that look alike (k-means), the ids of the smaller one; empty for fewer than four."""
        from sklearn.cluster import KMeans

        there, vectors = self.vectors(np.sort(ids)[:HALVED])
        if len(there) < 4:
            return there[:0]
        group = KMeans(2, n_init=4, random_state=0).fit_predict(vectors)
        smaller = int(2 * group.sum() <= len(group))
        found: Ids = there[group == smaller]
        return found

    def map(self, seed: int = 0) -> tuple[Ids, Doubles]:
        """Ids of a random sample of photos with vectors, and their places in the unit square by t-SNE, float64 [n, 2].

        It is made once and kept in the cache folder.
        """
        place = storage.cache_folder("review") / f"map-{self.embeddings.fingerprint}-{MAPPED}-{seed}.json"
        with self._lock:
            try:
                facts: dict[str, Any] = json.loads(place.read_bytes())
            except (OSError, ValueError):
                ids, points = self._made_map(seed)
                facts = {"ids": ids.tolist(), "points": np.round(points, 4).tolist()}
                place.parent.mkdir(parents=True, exist_ok=True)
                storage.write_bytes(place, json.dumps(facts).encode())
        return np.array(facts["ids"], np.int64), np.array(facts["points"], np.float64).reshape(-1, 2)

    def _made_map(self, seed: int) -> tuple[Ids, Doubles]:
        from fgvr.evaluation.aspects import project

        total = self.embeddings.rows
        chosen = np.random.default_rng(seed).choice(total, min(total, MAPPED), replace=False)
        ids, vectors = [], []
        for number in np.unique(chosen // self.embeddings.rows_per_part).tolist():
            rows = tables.read_part(self.embeddings.uri, number, ["image_id", "vector", "error"])
            mine = chosen[chosen // self.embeddings.rows_per_part == number] % self.embeddings.rows_per_part
            rows = rows.take(np.sort(mine))
            rows = rows.filter(pc.is_null(rows["error"]))
            ids.append(rows["image_id"].to_numpy())
            vectors.append(_unit(tables.vectors(rows["vector"])))
        found, points = np.concatenate(ids), project(_few(np.concatenate(vectors)), seed)
        if points is None:
            raise NoVectors("too few different photos for a map")
        return found, points


def _unit(vectors: Any) -> Floats:
    rows = np.asarray(vectors, np.float32)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), np.float32)


def _few(vectors: Floats) -> Floats:
    """The first principal components, in which t-SNE takes a tenth of the time and shows the same groups."""
    if min(vectors.shape) <= COMPONENTS:
        return vectors
    from sklearn.decomposition import PCA

    return np.asarray(PCA(COMPONENTS, random_state=0).fit_transform(vectors), np.float32)
