"""External vocabularies: the nouns of WordNet, and single words of captions as CaSED filters them."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from fgvr import storage
from fgvr.baselines import BaselineError
from fgvr.sources.columns import ColumnError, as_text, find_column
from fgvr.sources.csv_text import CsvText
from fgvr.sources.rows import SourceError
from fgvr.text_files import lines

# The caption database of CaSED: texts that people wrote about pictures, from a file.


def read_captions(uri: str, column: str) -> list[str]:
    """Distinct captions in file order, without outer blanks.

    Args:
        uri: `.csv` or `.parquet` with `column`, or `.txt` with one caption per line.
        column: the caption column.

    Raises:
        BaselineError: no such file, an unknown file type, no such column, or no captions in it.
    """
    try:
        data = storage.read_bytes(uri)
    except (FileNotFoundError, IsADirectoryError):
        raise BaselineError(f"baselines.cased.captions: there is no file {uri}") from None
    kind = PurePosixPath(uri).suffix.lower()
    if kind == ".txt":
        texts: list[str | None] = list(lines(data.decode("utf-8-sig", errors="replace")))
    elif kind in {".csv", ".parquet"}:
        texts = _column(data, kind, uri, column)
    else:
        raise BaselineError(f"baselines.cased.captions: {uri} is none of .csv, .parquet and .txt")
    captions = list(dict.fromkeys(text.strip() for text in texts if text and text.strip()))
    if not captions:
        raise BaselineError(f"baselines.cased.captions: there is no caption in {uri}")
    return captions


def _column(data: bytes, kind: str, uri: str, column: str) -> list[str | None]:
    try:
        texts = _of_csv(data, uri, column) if kind == ".csv" else _of_parquet(data, uri, column)
        return list(texts.to_pylist())
    except (pa.ArrowException, SourceError, ColumnError, OSError) as error:
        raise BaselineError(f"baselines.cased.captions: {uri} cannot be read: {error}") from None


def _of_csv(data: bytes, uri: str, column: str) -> pa.ChunkedArray:
    text = CsvText(io.BytesIO(data), uri, tabs=False)
    if not text.header:
        raise SourceError("it is empty")
    place = _place(text.header, uri, column)
    return pa.chunked_array([batch[0] for batch in text.batches([place])], pa.string())


def _of_parquet(data: bytes, uri: str, column: str) -> pa.Array:
    file = pq.ParquetFile(pa.BufferReader(data))
    name = file.schema_arrow.names[_place(file.schema_arrow.names, uri, column)]
    return as_text(file.read([name]).column(0).combine_chunks(), column, "caption")


def _place(names: list[str], uri: str, column: str) -> int:
    place = find_column(names, column, "baselines.cased.column")
    if place is None:
        known = ", ".join(names)
        raise BaselineError(f"baselines.cased.column = {column}: {uri} has no such column (there are: {known})")
    return place


# Candidate names from captions by CaSED's filters (altndrr/vic, `default_vocab_transform`): single words.
#
# Its part-of-speech tagger, which keeps nouns, adjectives and participles, is replaced by a list of English words
# that are none of these; the other steps are the same.

MIN_COUNT = 2
"""A candidate must occur at least this often in an image's captions."""
MIN_LETTERS = 3
NO_CANDIDATE = "object"
"""The name of an image whose captions leave no word."""

_TAG = re.compile(r"<[^>]+>")
_URL = re.compile(r"http\S+")
_SPECIAL = re.compile(r"[^\w\s\-.'&]")
_FILE_ENDING = re.compile(r"\.\w+")
_SEPARATOR = re.compile(r"[_\-]")
_NOT_A_LETTER = re.compile(r"[^a-zA-Z\s]")
_KINDS_OF_PICTURE = "image photo picture thumbnail logo symbol clipart portrait painting illustration icon profile"
_OTHER_WORDS = """
    about above across after again against all almost along also although always among and another any are
    around away back because been before behind being below beneath beside between beyond both but came can
    cannot come could did does down during each either else ever every few for from get gets got had has have
    having her here hers herself him himself his how however into its itself just less let lot made make makes
    many may maybe might mine more most much must near neither never not nothing now off often once one only
    onto other our ours out over own per perhaps quite rather same say says see seen shall she should since some
    soon still such take than that the their theirs them themselves then there these they thing this those
    though through thus too toward towards under until upon very was way well were what when where which while
    who whom whose why will with within without would yet you your yours two three four five six
"""
_DROPPED = frozenset(f"{_KINDS_OF_PICTURE} {_OTHER_WORDS}".split())


def caption_words(caption: str) -> list[str]:
    """The words of a caption in singular and lower case, in order and with repetitions; letters a–z only."""
    text = _FILE_ENDING.sub("", _SPECIAL.sub("", _URL.sub("", _TAG.sub("", caption))))
    words = (singular(_NOT_A_LETTER.sub("", word).lower()) for word in _SEPARATOR.sub(" ", text).split())
    return [word for word in words if len(word) >= MIN_LETTERS and word not in _DROPPED]


def candidate_words(captions: Sequence[Sequence[str]]) -> list[str]:
    """Words used at least `MIN_COUNT` times in an image's captions (given as words), most frequent first.

    If there are none, the most frequent words; `NO_CANDIDATE` alone if there is no word at all.
    """
    counts = Counter(word for caption in captions for word in caption)
    if not counts:
        return [NO_CANDIDATE]
    enough = min(MIN_COUNT, max(counts.values()))
    return sorted((word for word, count in counts.items() if count >= enough), key=lambda word: (-counts[word], word))


def singular(word: str) -> str:
    """The singular of a plural, by its ending; words in -ss, -us, -is, -ies and -oes are kept, as in the source."""
    if not word.endswith("s") or word.endswith(("ss", "us", "is", "ies", "oes")):
        return word
    return word[:-2] if word.endswith(("xes", "ches", "shes", "sses")) else word[:-1]


# All nouns of WordNet as a vocabulary: the label set of ZS-CLIP-WordNet (NeaR, table 2).

# wndb(5WN): lemma, part of speech, number of synsets, number of pointer kinds, …; licence lines begin with two blanks.
_LINE = re.compile(r"^(?P<lemma>\S+) n \d+ \d+ ")


def read_nouns(uri: str) -> list[str]:
    """The noun lemmas of a WordNet index file, with blanks for `_`, in file order (alphabetical, lower case).

    Args:
        uri: `index.noun` of any WordNet 3 release; 117,798 lemmas in WordNet 3.0.

    Raises:
        BaselineError: the file does not exist (the message names the package that has it), or has another format.
    """
    try:
        text = storage.read_bytes(uri).decode("utf-8-sig", errors="replace")
    except (FileNotFoundError, IsADirectoryError):
        raise BaselineError(
            f"baselines.wordnet.path: there is no file {uri}; it is index.noun of WordNet 3, which the package "
            "wordnet-base of Debian and Ubuntu puts into /usr/share/wordnet (apt-get install wordnet-base)"
        ) from None
    nouns: dict[str, None] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("  ") or not line.strip():
            continue
        found = _LINE.match(line)
        if found is None:
            raise BaselineError(
                f"baselines.wordnet.path: line {number} of {uri} is no line of WordNet's index.noun "
                f"(`lemma n synsets pointers …`): {line[:80]!r}"
            )
        nouns.setdefault(found["lemma"].replace("_", " "))
    if not nouns:
        raise BaselineError(f"baselines.wordnet.path: there is no noun in {uri}")
    return list(nouns)
