"""diff: show what changed between two runs: settings, tables, names of photos, scores, time and cost. Only reads.

    python pipelines/diff.py runs/first runs/second
    python pipelines/diff.py runs/first runs/second --page diff.html
    python pipelines/diff.py runs/first s3://bucket/runs/second --json

Photos are matched by their URI, whatever their numbers are in either run, or with --relative by their path below the
folder that all photos of a run share. The scores of two runs are compared on the photos that both evaluated: the
interval and the exact McNemar test say whether a difference is more than chance. Exit status: 0 where nothing differs,
1 where something does, 2 where there is no run, 130 for Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final

from cluster.run_status import FINISHED, RunStatus, StageStatus, run_status
from fgvr import storage
from fgvr.commands import as_called, program
from fgvr.config.tree import flat
from fgvr.config.yaml_text import YamlError, read_yaml
from fgvr.errors import UserError
from fgvr.redact import masked_tree, safe
from fgvr.text_files import decoded

if TYPE_CHECKING:
    import pyarrow as pa

    from fgvr.evaluation.differences import NameChanges, Named, PairedScore
    from fgvr.report.run_differences import MethodChange, RunDifferences, RunFacts, Setting, TableChange
    from fgvr.tables import Table

NAMED: Final = ("labels", "predictions")
"""Tables with a row per photo and a column `label`."""
OF_THE_RUN: Final = ("run.name", "run.folder", "run.take_over", "run.retry_failed")
"""Settings in which two runs always differ, or that change nothing."""
ABSTAINED: Final = "(abstained)"


def differences(first: str, second: str, *, relative: bool = False) -> RunDifferences:
    """Compare two runs by their folders, local paths or URLs. Raises NoRun where there is none.

    Args:
        first: the run that is compared with.
        second: the other one.
        relative: match photos by their path below the folder that all photos of a run share.
    """
    from fgvr.report.run_differences import RunDifferences

    one, other = run_status(first), run_status(second)
    notes: list[str] = []
    tables = [{stage.name: stage for stage in status.stages} for status in (one, other)]
    found = [{name: _table(stage) for name, stage in each.items() if stage.state == FINISHED} for each in tables]
    for which, status in (("first", one), ("second", other)):
        if status.state != FINISHED:
            notes.append(f"The {which} run is not finished ({status.state}): what it has so far is compared.")
    metrics = [_metrics(each) for each in found]
    runs = [_Photos(each, relative=relative) for each in found]
    return RunDifferences(
        first=_facts(one, found[0]),
        second=_facts(other, found[1]),
        settings=_settings(one.folder, other.folder, notes),
        tables=_tables(*tables),
        spaces=_spaces(*found),
        names=_names(runs, notes),
        scores=_scores(metrics, runs, notes),
        costs=_costs(metrics, (one, other)),
        notes=notes,
    )


def _table(stage: StageStatus) -> Table:
    from fgvr.tables import Table

    return Table.load(stage.table)


def _facts(status: RunStatus, tables: Mapping[str, Table]) -> RunFacts:
    from fgvr.report.run_differences import RunFacts

    begun = ""
    if status.session is not None:
        begun = f"begun {datetime.fromtimestamp(status.session.started).astimezone():%Y-%m-%d %H:%M %Z}"
    versions = dict.fromkeys(
        f"fgvr {made.get('fgvr', '?')}" for table in tables.values() for made in table.made_with if made.get("fgvr")
    )
    return RunFacts(status.folder, status.state, begun, ", ".join(versions))


def _settings(first: str, second: str, notes: list[str]) -> list[Setting]:
    from fgvr.report.run_differences import Setting

    trees = [_config(folder, notes) for folder in (first, second)]
    if not all(trees):
        return []
    one, other = (flat(masked_tree(tree)) for tree in trees)
    fields = [name for name in {**one, **other} if name not in OF_THE_RUN]
    return [Setting(name, one.get(name), other.get(name)) for name in fields if one.get(name) != other.get(name)]


def _config(folder: str, notes: list[str]) -> dict[str, Any]:
    from cluster.run_folder import CONFIG_FILE  # here, since it imports Ray

    try:
        tree = read_yaml(decoded(storage.read_bytes(storage.join(folder, CONFIG_FILE))))
    except (OSError, YamlError, UnicodeDecodeError) as error:
        notes.append(f"The settings of {folder} cannot be read, so that they are not compared: {error}")
        return {}
    return tree if isinstance(tree, dict) else {}


def _tables(first: Mapping[str, StageStatus], second: Mapping[str, StageStatus]) -> list[TableChange]:
    from fgvr.report.run_differences import FIRST, OTHER, SAME, SECOND, TableChange

    changes = []
    for name in {**first, **second}:
        one, other = first.get(name), second.get(name)
        if one is None or other is None:
            change = SECOND if one is None else FIRST
        else:
            change = SAME if one.fingerprint == other.fingerprint else OTHER
        rows = [None if each is None else each.rows for each in (one, other)]
        seconds = [None if each is None else each.seconds for each in (one, other)]
        changes.append(TableChange(name, change, *rows, *seconds))
    return changes


def _spaces(first: Mapping[str, Table], second: Mapping[str, Table]) -> tuple[list[str], list[str], int] | None:
    from fgvr.names.label_space import read_label_space

    if "labels" not in first or "labels" not in second:
        return None
    one, other = (set(read_label_space(tables["labels"]).labels) for tables in (first, second))
    return sorted(one - other), sorted(other - one), len(one & other)


class _Photos:
    """The photos of a run by their URIs, or by their paths below the folder that all of them share."""

    def __init__(self, tables: Mapping[str, Table], *, relative: bool) -> None:
        self.tables = tables
        self._skip = len(self._shared()) if relative else 0

    def _shared(self) -> str:
        """The folder of all photos: URIs are sorted, so what the first and the last share all others have, too."""
        import numpy as np

        samples = self.tables.get("samples")
        if samples is None or not samples.rows:
            return ""
        ends = samples.take(np.array([0, samples.rows - 1]), ["uri"])["uri"].to_pylist()
        one, other = (uri.split("/")[:-1] for uri in ends)
        same = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
        return "".join(f"{folder}/" for folder, _ in same)

    def uris(self, ids: pa.ChunkedArray) -> list[str]:
        """How photos are known, by their image ids."""
        found = self.tables["samples"].take(ids.to_numpy(), ["uri"])["uri"].to_pylist()
        return [uri[self._skip :] for uri in found]

    def named(self, table: str) -> Iterator[Named]:
        """A table's photos with their names, a part at a time; ids ascend, and so do the URIs of the samples."""
        import pyarrow as pa
        import pyarrow.compute as pc

        columns = ["image_id", "label", *(["abstained"] if table == "predictions" else [])]
        for rows in self.tables[table].batches(columns):
            labels = rows["label"]
            if "abstained" in columns:
                labels = pc.if_else(pc.fill_null(rows["abstained"], False), pa.scalar(ABSTAINED), labels)
            yield self.uris(rows["image_id"]), [label or "" for label in labels.to_pylist()]

    def evaluated(self) -> dict[str, dict[str, Any]]:
        """The rows of the report about photos with a true name."""
        rows = self.tables["report"].read()
        if "true" not in rows.schema.names or not rows.num_rows:
            return {}
        return {uri: row for uri, row in zip(self.uris(rows["image_id"]), rows.to_pylist(), strict=True) if row["true"]}


def _names(runs: Sequence[_Photos], notes: list[str]) -> dict[str, NameChanges]:
    from fgvr.evaluation.differences import name_changes

    found = {}
    for table in NAMED:
        if not all({"samples", table} <= run.tables.keys() for run in runs):
            continue
        found[table] = changes = name_changes(runs[0].named(table), runs[1].named(table))
        if not changes.photos and changes.only_first and changes.only_second:
            notes.append(
                f"{table}: no photo is in both runs ({changes.some_first} … and {changes.some_second} …). Where the "
                "same photos lie in another folder now, --relative matches them by their paths below it."
            )
    return found


def _metrics(tables: Mapping[str, Table]) -> dict[str, Any]:
    if "report" not in tables:
        return {}
    found: dict[str, Any] = json.loads(storage.read_bytes(tables["report"].path("metrics.json")))
    return found


def _scores(metrics: Sequence[Mapping[str, Any]], runs: Sequence[_Photos], notes: list[str]) -> list[MethodChange]:
    """The scores of the methods that both reports have; what only one has is a note."""
    from fgvr.metrics.scores import METRICS
    from fgvr.report.run_differences import MethodChange

    if not all(metrics):
        if any(metrics):
            notes.append("Only one of the runs has a report: no scores are compared.")
        return []
    one, other = (found["methods"] for found in metrics)
    for which, mine, its in (("first", one, other), ("second", other, one)):
        if alone := [name for name in mine if name not in its]:
            notes.append(f"Evaluated in the {which} run only: {', '.join(alone)}.")
    both = [name for name in one if name in other]
    paired = _paired(runs, both)
    return [
        MethodChange(name, metric, one[name].get(metric), other[name].get(metric), pair)
        for name in both
        for metric in METRICS
        if metric in one[name] or metric in other[name]
        for pair in [paired.get(name) if metric == "top1" else None]
    ]


def _paired(runs: Sequence[_Photos], methods: Sequence[str]) -> dict[str, PairedScore | None]:
    """Top-1 of the methods on the photos that both reports have with the same true name."""
    from fgvr.evaluation.differences import paired_score
    from fgvr.metrics.classification import top1_hits

    rows = [run.evaluated() for run in runs]
    both = sorted(uri for uri in rows[0].keys() & rows[1].keys() if rows[0][uri]["true"] == rows[1][uri]["true"])
    truth = [rows[0][uri]["true"] for uri in both]
    found = {}
    for name in methods:
        one, other = (top1_hits([each[uri].get(name) or "" for uri in both], truth) for each in rows)
        found[name] = paired_score(one, other)
    return found


def _costs(metrics: Sequence[Mapping[str, Any]], runs: Sequence[RunStatus]) -> list[tuple[str, str, str]]:
    """(what, first, second) in words."""
    from fgvr.report.page import duration
    from fgvr.report.prices import money

    seconds = [sum(stage.seconds for stage in status.stages) for status in runs]
    rows = [("time of all stages", duration(seconds[0]), duration(seconds[1]))]
    if not all(metrics):
        return rows
    for key in ("prompt_tokens", "cached_tokens", "output_tokens"):
        tokens = [int(found["cost"].get(key, 0)) for found in metrics]
        if any(tokens):
            rows.append((key.replace("_", " "), f"{tokens[0]:,}", f"{tokens[1]:,}"))
    priced = [(found.get("costs") or {}).get("methods") or {} for found in metrics]
    for method in {**priced[0], **priced[1]}:
        usd = [(each.get(method) or {}).get("usd_million") for each in priced]
        if any(value is not None for value in usd):
            shown = ["unknown" if value is None else f"US$ {money(value)}" for value in usd]
            rows.append((f"{method}, million photos", shown[0], shown[1]))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; the module's docstring has the exit statuses."""
    parser = argparse.ArgumentParser(
        prog=program(), description=as_called(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("first", help="the folder of a run, a path or an URL; usually the earlier one")
    parser.add_argument("second", help="the folder of the other run")
    parser.add_argument("--page", metavar="FILE", help="also write a page for a browser, a path or an URL")
    parser.add_argument(
        "--relative", action="store_true", help="match photos by their paths: the photos of one run were moved"
    )
    parser.add_argument("--json", action="store_true", help="everything, for programs")
    options = parser.parse_args(argv)
    try:
        found = differences(options.first, options.second, relative=options.relative)
        from fgvr.report.run_differences import as_json, as_page, as_text

        if options.page is not None:
            storage.write_bytes(storage.absolute(options.page), as_page(found).encode())
    except UserError as error:
        sys.stderr.write(safe(f"diff: {error}\n"))
        return 2
    except KeyboardInterrupt:
        return 130
    sys.stdout.write(as_json(found) if options.json else as_text(found))
    return 0 if found.is_empty else 1


if __name__ == "__main__":
    raise SystemExit(main())
