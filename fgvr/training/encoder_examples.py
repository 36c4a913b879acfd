"""What a distilled encoder learns from: images and, where stored vectors teach, their vectors, in memory-mapped files.

With vectors as the teacher nothing is needed but pairs of an image and a vector.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fgvr import storage
from fgvr.array_files import open_array, save_array, save_blocks
from fgvr.arrays import Ids
from fgvr.errors import UserError
from fgvr.schemas import ENCODER_TARGETS, Failure, Reason
from fgvr.tables import Table, vectors
from fgvr.training.checkpoint import LeftOut
from fgvr.training.examples import MappedUris, SampleUris, write_uris

IDS, HELD_OUT, URIS, VECTORS, FACTS = "image_ids.npy", "held_out.npy", "uris.arrow", "vectors.npy", "examples.json"
NO_VECTOR = Failure(Reason.NO_INPUT, "the image has no vector: the embeddings table says why")
BAD = Failure(Reason.BAD_VECTOR, "the image's vector has length 0, or values that are no finite numbers")

Halfs = npt.NDArray[np.float16]


class EncoderTrainingError(UserError, ValueError):
    """The encoder cannot be trained on these images and vectors; the message says why."""


class TableVectors:
    """Vectors of some images of an embeddings table, read block by block: millions are never in memory at once.

    Attributes:
        shape: number of images and width.
    """

    def __init__(self, embeddings: Table, ids: Ids) -> None:
        """`ids`: int64 [N], ascending; each has a vector."""
        self._embeddings, self._ids = embeddings, ids
        self.shape = (len(ids), int(embeddings.extra["dim"]))

    def __len__(self) -> int:
        return self.shape[0]

    def blocks(self) -> Iterator[Halfs]:
        """The vectors in order, float16 [n, d]."""
        for rows in self._embeddings.batches_of(self._ids, ["image_id", "vector"]):
            yield vectors(rows["vector"])


@dataclass(frozen=True)
class EncoderExamples:
    """N images to learn from.

    Attributes:
        image_ids: int64 [N], ascending.
        uris: where the images are.
        held_out: bool [N]: measured after every epoch instead of learned from.
        identity: what determines the images' content, see `fgvr.training.image_store`.
        vectors: the teacher's, of unit length, float16 [N, d]; None where the teacher is a network.
    """

    image_ids: Ids
    uris: Sequence[str]
    held_out: npt.NDArray[np.bool_]
    identity: str
    vectors: Halfs | TableVectors | None = None

    def __post_init__(self) -> None:
        sizes = {len(self.image_ids), len(self.uris), len(self.held_out)}
        sizes |= set() if self.vectors is None else {len(self.vectors)}
        if len(sizes) != 1:
            raise ValueError(f"examples of different lengths: {sorted(sizes)}")

    def __len__(self) -> int:
        return len(self.image_ids)

    def write(self, uri: str) -> None:
        """Write a folder of files that can be memory-mapped."""
        save_array(storage.join(uri, IDS), self.image_ids)
        save_array(storage.join(uri, HELD_OUT), self.held_out)
        with storage.new_file(storage.join(uri, URIS)) as file:
            write_uris(file, self.uris)
        if self.vectors is not None:
            blocks = self.vectors.blocks() if isinstance(self.vectors, TableVectors) else [self.vectors]
            save_blocks(storage.join(uri, VECTORS), "<f2", self.vectors.shape, blocks)
        facts = {"identity": self.identity, "vectors": self.vectors is not None}
        storage.write_bytes(storage.join(uri, FACTS), json.dumps(facts).encode())

    @classmethod
    def read(cls, uri: str) -> EncoderExamples:
        """Memory-map what `write` wrote."""
        folder = storage.fetch_folder(uri)
        facts = json.loads((folder / FACTS).read_bytes())
        return cls(
            image_ids=open_array(folder / IDS),
            uris=MappedUris(str(folder / URIS)),
            held_out=open_array(folder / HELD_OUT),
            identity=facts["identity"],
            vectors=open_array(folder / VECTORS) if facts["vectors"] else None,
        )


@dataclass(frozen=True)
class EncoderSet:
    """The examples of a training run, and the images that could not become any.

    Attributes:
        examples: images to learn from.
        refused: failures by image id: images whose vector is missing or says nothing.
    """

    examples: EncoderExamples
    refused: dict[int, Failure]

    def table(self, left_out: LeftOut) -> pa.Table:
        """Rows of ENCODER_TARGETS: every image that should have been learned from, failures with their reason.

        Args:
            left_out: failures of images that could not be read, by position in `examples`.
        """
        examples = self.examples
        failures = self.refused | {int(examples.image_ids[place]): failure for place, failure in left_out.items()}
        refused = np.array(sorted(self.refused), dtype=np.int64)
        ids = np.concatenate([examples.image_ids, refused])
        held = pa.array(np.concatenate([examples.held_out, np.zeros(len(refused), bool)]))
        order = np.argsort(ids, kind="stable")
        ids = ids[order]
        errors = [failures[each].as_row() if each in failures else None for each in ids.tolist()]
        rows = pa.table(
            [pa.array(ids), held.take(pa.array(order)), pa.array(errors, ENCODER_TARGETS.field("error").type)],
            schema=ENCODER_TARGETS,
        )
        return rows.set_column(
            1, ENCODER_TARGETS.field(1), pc.if_else(pc.is_null(rows["error"]), rows["held_out"], None)
        )


def with_vectors(ids: Ids, embeddings: Table) -> tuple[Ids, dict[int, Failure]]:
    """Which images have a vector that says anything, and why others have none, by image id.

    Images that are not in the table are in neither: nobody asked for their vectors.

    Args:
        ids: of the images in question, int64, ascending.
        embeddings: the vectors.

    Raises:
        EncoderTrainingError: no image has a vector.
    """
    refused: dict[int, Failure] = {}
    good = [np.zeros(0, np.int64)]
    for rows in embeddings.batches_of(ids, ["image_id", "vector"]):
        there = rows["vector"].is_valid().to_numpy()
        usable = there.copy()
        usable[there] = _directed(rows.filter(pa.array(there)))
        found = rows["image_id"].to_numpy()
        good.append(found[usable])
        refused |= dict.fromkeys(found[~there].tolist(), NO_VECTOR)
        refused |= dict.fromkeys(found[there & ~usable].tolist(), BAD)
    usable_ids = np.concatenate(good)
    if not len(usable_ids):
        raise EncoderTrainingError(
            f"distill.split: none of its {len(ids):,} images has a vector in the table embeddings"
            f"{f' ({len(refused):,} failed there)' if refused else '; see embed.splits and embed.images'}"
        )
    return usable_ids, refused


def _directed(rows: pa.Table) -> npt.NDArray[np.bool_]:
    """Which vectors say anything: finite numbers that are not all zero."""
    block = vectors(rows["vector"]).astype(np.float32)
    return np.asarray(np.isfinite(block).all(axis=1) & (block != 0).any(axis=1))


def encoder_examples(ids: Ids, held_out: Ids, samples: Table, embeddings: Table | None = None) -> EncoderExamples:
    """Examples of these images.

    Args:
        ids: the images, int64, ascending; with `embeddings` each has a vector there.
        held_out: those of them that are held out.
        samples: where the images are.
        embeddings: their vectors; None where the teacher is a network.
    """
    targets = None if embeddings is None else TableVectors(embeddings, ids)
    return EncoderExamples(ids, SampleUris(samples, ids), np.isin(ids, held_out), samples.version, targets)
