"""Reads a file of vectors in blocks: .npy, .npz and .parquet, wherever it lies and however large it is.

Arrays are read as streams, never as pickles. What a file holds is known from its header: the number of rows, their
dimension, and whether they name their photos by URI or by image id.
"""

from __future__ import annotations

import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from fgvr import storage
from fgvr.config.vectors import FileVectors
from fgvr.errors import UserError
from fgvr.sources.columns import ColumnError, as_text

BLOCK_BYTES: Final = 32 * 2**20
"""Bytes of vectors that are read at once."""
KEY_ROWS: Final = 65_536
"""Rows of URIs or ids that are read at once."""
OTHER_NAME: Final = "vectors"
FIELD: Final = "embed.vectors"
Numbers = npt.NDArray[Any]


class VectorFileError(UserError, ValueError):
    """A file of vectors that cannot be used; the message names the field, and the row where one is to blame."""


@dataclass(frozen=True)
class VectorFile(ABC):
    """An opened file of vectors.

    Attributes:
        source: its place and the names of its columns.
        rows: number of vectors.
        dim: their dimension.
        key: column that names the photos; None where the order does.
    """

    source: FileVectors
    rows: int
    dim: int
    key: str | None

    @property
    def by_id(self) -> bool:
        """Whether `key` holds image ids, and not URIs."""
        return self.key == self.source.id_column

    @abstractmethod
    def photos(self) -> Iterator[pa.Array]:
        """The column `key` in blocks: text, or int64."""

    @abstractmethod
    def vectors(self) -> Iterator[Numbers]:
        """The vectors in blocks, floats [n, dim] of any precision, as they are; a missing vector is NaN."""


def open_vectors(source: FileVectors) -> VectorFile:
    """Open a file and check its header.

    Raises:
        VectorFileError: no such file or an unknown format; no vectors in it, not of two dimensions, or no numbers; no
            URIs or ids although the rows are to be named; as many URIs as vectors are not there.
    """
    path = storage.absolute(source.path)
    ending = path.rpartition(".")[2].lower()
    if ending not in {"npy", "npz", "parquet", "pq"}:
        raise VectorFileError(f"{FIELD}.path = {source.path}: the name must end in .npy, .npz or .parquet")
    if not storage.exists(path):
        raise VectorFileError(f"{FIELD}.path = {source.path}: there is no such file")
    with _as_vector_errors(source):
        found = _open_parquet(path, source) if ending in {"parquet", "pq"} else _open_arrays(path, source, ending)
    if not found.rows or not found.dim:
        raise VectorFileError(f"{FIELD}.path = {source.path}: it holds no vector ({found.rows} rows of {found.dim})")
    return found


@contextmanager
def _as_vector_errors(source: FileVectors) -> Iterator[None]:
    """Turns any error of the file into a VectorFileError whose sentence names it."""
    try:
        yield
    except UserError:
        raise
    except (ColumnError, pa.ArrowException, OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise VectorFileError(f"{FIELD}.path = {source.path}: {str(error).strip(chr(39))}") from error


def _chosen(names: list[str], source: FileVectors) -> tuple[str, str | None]:
    """The columns with the vectors and with the keys; raises VectorFileError."""
    shown = ", ".join(names[:20]) or "nothing"
    vector = source.vector_column
    if vector not in names and "vector_column" not in source.model_fields_set:
        vector = OTHER_NAME
    if vector not in names:
        raise VectorFileError(f"{FIELD}.vector_column = {source.vector_column}: {source.path} has only {shown}")
    if source.order == "samples":
        return vector, None
    given = source.model_fields_set
    by_id = source.uri_column not in names or ("id_column" in given and "uri_column" not in given)
    key = source.id_column if by_id and "uri_column" not in given else source.uri_column
    if key not in names:
        raise VectorFileError(
            f"{FIELD}.uri_column = {source.uri_column}: {source.path} has only {shown}, and nothing says which vector "
            f"is of which photo. Name the column of URIs or of image ids ({FIELD}.id_column); or, if row i is of the "
            f"photo with image_id i, set {FIELD}.order to samples"
        )
    return vector, key


def _check_numbers(shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> None:
    if len(shape) != 2:
        raise ColumnError(f"{name} has the shape {list(shape)}; a row of numbers per photo is needed")
    if dtype.kind != "f":
        raise ColumnError(f"{name} holds {dtype}; vectors are floats")


# .npy and .npz


@dataclass(frozen=True)
class _Arrays(VectorFile):
    """Arrays as NumPy saves them; `vector` is the member of an .npz, "" of an .npy."""

    vector: str

    def photos(self) -> Iterator[pa.Array]:
        """See VectorFile."""
        with _as_vector_errors(self.source), ExitStack() as stack:
            array = _opened(stack, storage.absolute(self.source.path), self.key or "")
            for block in array.blocks(KEY_ROWS):
                yield _as_ids(block, self.key or "") if self.by_id else _as_uris(block, self.key or "")

    def vectors(self) -> Iterator[Numbers]:
        """See VectorFile."""
        with _as_vector_errors(self.source), ExitStack() as stack:
            array = _opened(stack, storage.absolute(self.source.path), self.vector)
            yield from array.blocks(max(1, BLOCK_BYTES // (self.dim * array.dtype.itemsize)))


@dataclass(frozen=True)
class _Array:
    """The header of an array, and the stream of its values."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    stream: IO[bytes]

    def blocks(self, rows: int) -> Iterator[Numbers]:
        """The array, `rows` at a time."""
        width = int(np.prod(self.shape[1:], dtype=np.int64))
        for start in range(0, self.shape[0], rows):
            count = min(rows, self.shape[0] - start)
            wanted = count * width * self.dtype.itemsize
            data = self.stream.read(wanted)
            while len(data) < wanted and (more := self.stream.read(wanted - len(data))):
                data += more
            if len(data) < wanted:
                raise EOFError(f"it ends in row {start + len(data) // max(1, width * self.dtype.itemsize) + 1}")
            yield np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])


def _open_arrays(path: str, source: FileVectors, ending: str) -> VectorFile:
    with ExitStack() as stack:
        names = [] if ending == "npy" else _members(stack, path)
        if ending == "npy":
            vector, key = "", None
            if source.order != "samples":
                raise VectorFileError(
                    f"{FIELD}.path = {source.path}: a .npy does not say which vector is of which photo. If row i is of "
                    f"the photo with image_id i, set {FIELD}.order to samples; else save an .npz with the arrays "
                    "vectors and uri"
                )
        else:
            vector, key = _chosen(names, source)
        array = _opened(stack, path, vector)
        _check_numbers(array.shape, array.dtype, vector or "the array")
        if key is not None and (count := _opened(stack, path, key).shape) != array.shape[:1]:
            raise ColumnError(f"{key} has the shape {list(count)} for {array.shape[0]} vectors; they must be as many")
    return _Arrays(source, array.shape[0], array.shape[1], key, vector)


def _members(stack: ExitStack, path: str) -> list[str]:
    filesystem, inside = storage.resolve(path)
    archive = stack.enter_context(zipfile.ZipFile(stack.enter_context(filesystem.open(inside, "rb"))))
    return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def _opened(stack: ExitStack, path: str, member: str) -> _Array:
    """The array of an .npy, or a member of an .npz, with its stream at the first value."""
    filesystem, inside = storage.resolve(path)
    stream: Any = stack.enter_context(filesystem.open(inside, "rb"))
    if member:
        archive = stack.enter_context(zipfile.ZipFile(stream))
        stream = stack.enter_context(archive.open(f"{member}.npy"))
    form: Any = np.lib.format
    version = form.read_magic(stream)
    if version not in {(1, 0), (2, 0)}:
        raise ColumnError(f"{member or 'the array'} is of version {version} of NumPy's format, which is not read here")
    shape, fortran, dtype = (form.read_array_header_1_0 if version == (1, 0) else form.read_array_header_2_0)(stream)
    if dtype.hasobject:
        raise ColumnError(
            f"{member or 'the array'} holds Python objects, a pickle that is not read: save text or numbers"
        )
    if fortran and len(shape) > 1:
        raise ColumnError(f"{member or 'the array'} lies in Fortran's order: save np.ascontiguousarray(…)")
    return _Array(tuple(shape), dtype, stream)


def _as_uris(block: Numbers, name: str) -> pa.Array:
    if block.dtype.kind == "S":
        return pa.array([bytes(value).decode() for value in block.tolist()], pa.large_string())
    if block.dtype.kind != "U":
        raise ColumnError(f"{name} holds {block.dtype}, where URIs are text")
    return pa.array(block.tolist(), pa.large_string())


def _as_ids(block: Numbers, name: str) -> pa.Array:
    if block.dtype.kind not in "iu":
        raise ColumnError(f"{name} holds {block.dtype}, where image ids are whole numbers")
    return pa.array(block.astype(np.int64))


# .parquet


@dataclass(frozen=True)
class _Parquet(VectorFile):
    """A Parquet file whose column `vector` holds lists of floats."""

    vector: str

    def photos(self) -> Iterator[pa.Array]:
        """See VectorFile."""
        with _as_vector_errors(self.source):
            for column in self._batches(self.key or "", KEY_ROWS):
                if not self.by_id:
                    yield as_text(column, self.key or "", "URI")
                elif pa.types.is_integer(column.type):
                    yield column.cast(pa.int64())
                else:
                    raise ColumnError(f"{self.key} holds {column.type}, where image ids are whole numbers")

    def vectors(self) -> Iterator[Numbers]:
        """See VectorFile."""
        start = 0
        with _as_vector_errors(self.source):
            for column in self._batches(self.vector, max(1, BLOCK_BYTES // (4 * self.dim))):
                yield self._matrix(column, start)
                start += len(column)

    def _batches(self, name: str, rows: int) -> Iterator[pa.Array]:
        filesystem, inside = storage.arrow_filesystem(storage.absolute(self.source.path))
        with pq.ParquetFile(inside, filesystem=filesystem) as table:
            for batch in table.iter_batches(batch_size=rows, columns=[name]):
                yield batch.column(0)

    def _matrix(self, column: pa.Array, start: int) -> Numbers:
        lengths = column.value_lengths().fill_null(self.dim).to_numpy(zero_copy_only=False)
        if len(odd := np.flatnonzero(lengths != self.dim)):
            raise ColumnError(
                f"row {start + odd[0] + 1}: a vector of {lengths[odd[0]]} numbers, the first has {self.dim}"
            )
        matrix = np.full((len(column), self.dim), np.nan, np.float64)
        there = column.is_valid().to_numpy(zero_copy_only=False)
        flat = column.filter(pa.array(there)).flatten().cast(pa.float64())
        matrix[there] = flat.fill_null(np.nan).to_numpy(zero_copy_only=False).reshape(-1, self.dim)
        return matrix


def _open_parquet(path: str, source: FileVectors) -> VectorFile:
    filesystem, inside = storage.arrow_filesystem(path)
    with pq.ParquetFile(inside, filesystem=filesystem) as table:
        vector, key = _chosen(table.schema_arrow.names, source)
        kind = table.schema_arrow.field(vector).type
        lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        if not lists or not pa.types.is_floating(kind.value_type):
            raise ColumnError(f"column {vector} holds {kind}; vectors are lists of floats")
        rows, dim = table.metadata.num_rows, 0
        for batch in table.iter_batches(batch_size=256, columns=[vector]):
            there = batch.column(0).drop_null()
            if len(there):
                dim = len(there[0])
                break
    return _Parquet(source, rows, dim, key, vector)
