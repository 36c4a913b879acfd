"""export: take a run's models, named photos or vectors to other tools, and people's answers back.

    python pipelines/export.py runs/mine --to onnx --model makd
    python pipelines/export.py runs/mine --to dataset --min-score 0.8 --out /data/birds
    python pipelines/export.py runs/mine --to label-studio --serve /data/photos/=/data/local-files/?d=photos/
    python pipelines/export.py runs/mine --from-label-studio project-1.json

Names are those of the predictions, else of the labels, with what people decided in review. What is written appears
under its name when it is whole, with `export.json` as its last file; an interrupted export starts over. docs/export.md
has the formats, and what reads them. Exit status: 0 when it is done, 2 where there is no run, nothing to export, or
something else in the folder, 130 for Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from fgvr.commands import as_called, program
from fgvr.errors import UserError
from fgvr.redact import safe

if TYPE_CHECKING:
    from pathlib import Path

    from fgvr.config.data import ImageLimits
    from fgvr.export.photos import NamedPhotos
    from fgvr.export.places import Destination
    from fgvr.tables import Table

OF_MODELS: Final = ("onnx", "timm")
OF_FILES: Final = ("dataset", "imagefolder", "coco", "fiftyone")
FORMATS: Final = (*OF_MODELS, *OF_FILES, "label-studio", "vectors")
LINKED: Final = ("imagefolder", "coco", "fiftyone")
MODELS: Final = ("makd", "base", "heads", "label_prototypes")
"""Tables with a model, the one to prefer first."""
NAMED: Final = ("predictions", "labels")
"""Tables that name photos, the one to prefer first."""
SAY_EVERY: Final = 10.0
"""Seconds between lines about how far it is."""


class NoSuchTable(UserError):
    """The run has not finished a table that the export needs."""


def finished(folder: str) -> dict[str, Table]:
    """The finished tables of a run by name; raises NoRun."""
    from cluster.run_status import FINISHED, run_status
    from fgvr.tables import Table

    return {stage.name: Table.load(stage.table) for stage in run_status(folder).stages if stage.state == FINISHED}


def export(options: argparse.Namespace) -> dict[str, Any]:
    """Write what the options ask for; returns the content of `export.json`.

    Raises:
        UserError: no run, no such table, nothing to export, or the folder holds something else.
    """
    from fgvr import storage
    from fgvr.export.places import Destination

    tables = finished(options.run)
    out = options.out or storage.join(options.run, "exports", options.to)
    if options.to in OF_MODELS:
        model = _model(tables, options.model)
        return _of_model(options.to)(model, Destination(out, options.to, overwrite=options.overwrite))
    samples = _table(tables, ("samples",))
    if options.to == "vectors":
        from fgvr.export.vector_index import export_index

        embeddings = _table(tables, ("embeddings",))
        return export_index(embeddings, samples, Destination(out, options.to, overwrite=options.overwrite))
    photos = _photos(tables, options)
    photos.names()  # an error before anything is written
    to = Destination(out, options.to, overwrite=options.overwrite)
    if options.to == "label-studio":
        from fgvr.export.label_studio import export_label_studio

        return export_label_studio(photos, to, _served(options.serve))
    return _of_files(photos, to, options.to, _limits(options.run), link=options.photos == "link")


def _photos(tables: Mapping[str, Table], options: argparse.Namespace) -> NamedPhotos:
    from fgvr.export.photos import NamedPhotos
    from fgvr.review.decisions import Decisions
    from fgvr.review.log import effective_decisions

    named = _table(tables, NAMED if options.table is None else (options.table,))
    decisions = Decisions() if options.without_review else effective_decisions(options.run)
    told = _Told(named.rows)
    return NamedPhotos(_table(tables, ("samples",)), named, decisions, options.split, options.min_score, told.looked)


def _of_files(photos: NamedPhotos, to: Destination, kind: str, limits: ImageLimits, *, link: bool) -> dict[str, Any]:
    if kind == "dataset":
        from fgvr.export.hub_dataset import export_dataset

        return export_dataset(photos, to, limits)
    if kind == "imagefolder":
        from fgvr.export.image_folder import export_imagefolder

        return export_imagefolder(photos, to, limits, link=link)
    from fgvr.export.annotations import export_coco, export_fiftyone

    return (export_coco if kind == "coco" else export_fiftyone)(photos, to, limits, link=link)


def _of_model(kind: str) -> Callable[[Path, Destination], dict[str, Any]]:
    if kind == "onnx":
        from fgvr.export.onnx_model import export_onnx

        return export_onnx
    from fgvr.export.timm_model import export_timm

    return export_timm


def _model(tables: Mapping[str, Table], name: str | None) -> Path:
    """The folder of a run's model, fetched to this machine where it is elsewhere."""
    from fgvr import storage
    from pipelines.train_stage import MODEL_FOLDER

    return storage.fetch_folder(_table(tables, MODELS if name is None else (name,)).path(MODEL_FOLDER))


def _table(tables: Mapping[str, Table], wanted: Sequence[str]) -> Table:
    """The first of the wanted tables that is finished; raises NoSuchTable."""
    found = next((tables[name] for name in wanted if name in tables), None)
    if found is None:
        raise NoSuchTable(
            f"this run has not finished {' or '.join(wanted)} (it has: {', '.join(sorted(tables)) or 'nothing yet'}); "
            "finish it first, with pipelines/full.py or the stage's own script"
        )
    return found


def _limits(folder: str) -> ImageLimits:
    """The limits under which the run reads photos."""
    from cluster.run_folder import CONFIG_FILE
    from fgvr import storage
    from fgvr.config import load_config
    from pipelines.command import PRESETS

    return load_config(["--config", storage.join(storage.absolute(folder), CONFIG_FILE)], PRESETS).ingest.limits


def _served(given: Sequence[str]) -> dict[str, str]:
    """`BEGINNING=ADDRESS` as beginnings of URIs and addresses."""
    pairs = [each.partition("=") for each in given]
    return {start: address for start, _, address in pairs}


class _Told:
    """Says every few seconds how many photos have been looked at."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._said = total, 0, time.monotonic()

    def looked(self, count: int) -> None:
        """So many more photos have been looked at."""
        self._done += count
        if time.monotonic() - self._said >= SAY_EVERY:
            self._said = time.monotonic()
            sys.stderr.write(f"export: {self._done:,} of {self._total:,} photos\n")


def take_back(options: argparse.Namespace) -> str:
    """Append what people decided in Label Studio to the run's review log; returns what became of it, in words.

    Raises:
        UserError: no run, no such file, or one that is no export of Label Studio.
    """
    from fgvr.export.label_studio_answers import append_answers, read_answers
    from fgvr.review.log import DecisionLog, effective_decisions

    tables = finished(options.run)
    named = _table(tables, NAMED if options.table is None else (options.table,))
    answers = read_answers(options.from_label_studio)
    log = DecisionLog(options.run)
    taken = append_answers(answers, log, _table(tables, ("samples",)), named, effective_decisions(options.run))
    said = [f"{taken.added:,} decisions appended to {log.place}", f"{answers.skipped:,} tasks without an answer"]
    others = [
        (taken.known, "read before"),
        (taken.strange, "about photos that are not in this run"),
        (taken.refused, "refused, since their name is longer than the log takes"),
        (answers.disputed, "photos with different answers, of which the latest counts"),
    ]
    return "; ".join([*said, *(f"{count:,} {what}" for count, what in others if count)])


def _checked(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with a message where options do not go together."""
    if (options.to is None) == (options.from_label_studio is None):
        parser.error("one of --to and --from-label-studio is needed")
    if options.model is not None and options.to not in OF_MODELS:
        parser.error(f"--model goes with --to {' or '.join(OF_MODELS)}")
    if options.photos == "link" and options.to not in LINKED:
        parser.error(f"--photos link goes with --to {', '.join(LINKED)}")
    if not 0 <= options.min_score <= 1:
        parser.error("--min-score: expected a number from 0 to 1")
    if any("=" not in each for each in options.serve):
        parser.error("--serve: expected BEGINNING=ADDRESS")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program(), description=as_called(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="the run's folder, a path or an URL")
    parser.add_argument("--to", choices=FORMATS, help="the format")
    parser.add_argument(
        "--out", metavar="FOLDER", help="a path or an URL (default: exports/FORMAT in the run's folder)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a finished export that is there")
    parser.add_argument("--model", choices=MODELS, help="onnx, timm: which model (default: the first that is there)")
    parser.add_argument("--table", choices=NAMED, help="whose names (default: predictions, where there are any)")
    parser.add_argument("--split", help="only photos of this split")
    parser.add_argument(
        "--min-score", type=float, default=0.0, metavar="P", help="only names with this probability, or from people"
    )
    parser.add_argument("--without-review", action="store_true", help="as if nobody had decided anything in review")
    parser.add_argument(
        "--photos",
        choices=("copy", "link"),
        default="copy",
        help="link: photos stay where they are (imagefolder, coco, fiftyone)",
    )
    parser.add_argument(
        "--serve",
        action="append",
        default=[],
        metavar="BEGINNING=ADDRESS",
        help="label-studio: photos whose place begins so are served at this address; may be repeated",
    )
    parser.add_argument(
        "--from-label-studio", metavar="FILE", help="append what people decided there to the run's review log"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; the module's docstring has the exit statuses."""
    parser = _parser()
    options = parser.parse_args(argv)
    _checked(parser, options)
    try:
        if options.from_label_studio is not None:
            sys.stdout.write(safe(f"export: {take_back(options)}\n"))
            return 0
        facts = export(options)
    except UserError as error:
        sys.stderr.write(safe(f"export: {error}\n"))
        return 2
    except KeyboardInterrupt:
        return 130
    sys.stdout.write(safe(f"export: {_summary(facts)}\n"))
    return 0


def _summary(facts: Mapping[str, Any]) -> str:
    said = [f"{facts[key]:,} {key}" for key in ("photos", "vectors", "names") if key in facts]
    said += [f"left out: {count:,}, {reason}" for reason, count in facts.get("left_out", {}).items()]
    if "largest_difference" in facts:
        worst = facts["largest_difference"]
        said.append("not compared" if worst is None else f"differs by {worst:.1g} at most")
    if columns := facts.get("metadata_columns"):
        said.append(f"it predicts as if {', '.join(columns)} were missing, beside which it was trained")
    return f"{facts['folder']} ({facts['kind']}): {'; '.join(said)}"


if __name__ == "__main__":
    raise SystemExit(main())
