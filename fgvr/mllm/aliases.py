"""The alias table: which answers mean which label; written for people, edited by them, and read again."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fgvr import storage
from fgvr.errors import UserError
from fgvr.mllm.spelling import spelling_key
from fgvr.text_files import CsvError, decoded, read_csv


class AliasError(UserError, ValueError):
    """An alias file that cannot be used; the message names the line."""


@dataclass(frozen=True)
class Alias:
    """One line: an answer as it was cleaned, the label it counts for ("": none), and how many images gave it."""

    answer: str
    label: str
    count: int


@dataclass(frozen=True)
class AliasTable:
    """Labels that a person chose: by the key of an answer (raw or cleaned) to the label exactly as written."""

    labels: Mapping[str, str] = field(default_factory=dict)

    def label(self, text: str) -> str | None:
        """The chosen label of an answer; "" when it is to be dropped, None when nothing was chosen."""
        return self.labels.get(spelling_key(text))


def read_aliases(uri: str) -> AliasTable:
    """Read a CSV with the columns `answer` and `label`; other columns are ignored.

    An empty label drops the answer. Chains (a → b, b → c) are followed to their end.

    Raises:
        AliasError: no such file, a missing column, an answer with two labels, or a circle.
    """
    try:
        header, rows = read_csv(decoded(storage.read_bytes(uri)))
    except FileNotFoundError:
        raise AliasError(f"label.aliases: there is no file {uri}") from None
    except UnicodeDecodeError as error:
        raise AliasError(f"label.aliases: {uri} is not UTF-8 text: {error.reason}") from None
    except CsvError as error:
        raise AliasError(f"label.aliases: {uri}, {error}") from None
    if not {"answer", "label"} <= set(header):
        raise AliasError(f"label.aliases: {uri} needs columns answer and label, has {header}")
    chosen: dict[str, str] = {}
    for line, row in rows:
        key, label = spelling_key(row["answer"]), row["label"].strip()
        if not key:
            continue
        if chosen.setdefault(key, label) != label:
            raise AliasError(
                f"label.aliases: {uri}, line {line}: {row['answer']!r} stands for {chosen[key]!r} and for"
                f" {label!r} (case and punctuation of answers do not count)"
            )
    return AliasTable({key: _end_of_chain(key, chosen, uri) for key in chosen})


def write_aliases(aliases: Iterable[Alias]) -> bytes:
    """The table as CSV: most frequent labels first, the answers of a label together."""
    rows = list(aliases)
    totals: dict[str, int] = {}
    for alias in rows:
        totals[alias.label] = totals.get(alias.label, 0) + alias.count
    rows.sort(key=lambda alias: (-totals[alias.label], alias.label, -alias.count, alias.answer))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("answer", "label", "count"))
    writer.writerows((alias.answer, alias.label, alias.count) for alias in rows)
    return text.getvalue().encode()


def _end_of_chain(key: str, chosen: Mapping[str, str], uri: str) -> str:
    seen = {key}
    while True:
        label = chosen[key]
        following = spelling_key(label)
        if following == key or following not in chosen:
            return label
        if following in seen:
            raise AliasError(f"label.aliases: {uri}: {label!r} stands for other labels in a circle")
        seen.add(following)
        key = following
