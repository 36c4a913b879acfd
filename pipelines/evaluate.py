"""evaluate: measure every method and what the run cost. Out: report/metrics.json, report/report.html, a table.

    python pipelines/evaluate.py --evaluate.methods "[zs_clip, near, makd]" --evaluate.max_images 500

All methods name the images of `evaluate.split`; their names are compared with the true classes, where the data has
some, and with each other. Where that split is empty, as with a plain folder of photos, the discovery images are used
instead. The table has one row per image, with its true name and one column per method.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.fingerprint import MADE_UP
from fgvr import storage
from fgvr.config import Config
from fgvr.errors import UserError
from fgvr.redact import masked
from pipelines.billing import assumed_billing, billing, paid_by
from pipelines.command import stage_main
from pipelines.compared import Compared, compared_images, evaluated, methods_of
from pipelines.embed import chosen_by
from pipelines.infer import check_costs, costs_at, stated_costs
from pipelines.kinds import ASKED, by_level, check_kinds, stated_kinds
from pipelines.photo_counts import may_have_truth
from pipelines.registry import WHOLE_JOB, stage_of
from pipelines.report_aspects import aspect_report, has_aspects
from pipelines.report_leaks import leaks_of
from pipelines.report_promise import promise_of
from pipelines.report_slices import check_slices, slice_numbers, slices_of
from pipelines.reviewed import audited, left_out, true_names
from pipelines.run_tables import Look, NotThere, Run, needs, per_run, unfinished
from pipelines.stage import Stage

if TYPE_CHECKING:
    from cluster.stage import StageFolder, StageSummary
    from fgvr.config.run import Method
    from fgvr.evaluation.images import Comparison
    from fgvr.heads.costs import Tracks
    from fgvr.metrics.semantic import SentenceModel
    from fgvr.report.results import Results
    from fgvr.tables import Table

log = logging.getLogger(__name__)

CONTENT = "0.1.0"
"""Version of what the report computes and says. Raise it when the same tables should give another report: a release of
the package alone leaves finished reports as they are. (Its form is that of the package's version, which stood here.)"""

FILES = ("metrics.json", "report.html")
ROWS_PER_PART = 2**18


class Report(Stage):
    """Metrics of all methods, report.html and metrics.json, and the name that each method gives to each image."""

    table = "report"
    phase = None

    def check(self, config: Config) -> None:
        """Check the methods, prices, costs, and the sentence model where true classes may be known."""
        from fgvr.metrics.semantic import find_sentence_model
        from fgvr.report.prices import read_prices

        methods_of(config)
        check_slices(config)
        check_costs(config)
        check_kinds(config)
        if config.evaluate.prices is not None:
            read_prices(config.evaluate.prices)
        if may_have_truth(config.ingest.source):
            find_sentence_model(config.evaluate.sentence_model)

    def consults(self, run: Run) -> Iterator[str]:
        """The names of all methods, and the answers of the student with aspects."""
        methods = methods_of(run.config)
        yield from ("samples", "labels", *chosen_by(run.config))
        if "near" in methods:
            yield "near"
        if run.config.evaluate.report_issues:
            yield "issues"
        if run.config.hierarchy.source == "mllm":
            yield ASKED
        if run.config.evaluate.leaks != "ignore":
            yield "findings"
        if run.computes:
            _sentence_model(run)  # raises before minutes are spent on the rest
        for method in methods:
            yield table_of(run, method)
        if "makd" in methods and has_aspects(run):
            yield "eval_aspects"

    def reads(self, run: Run) -> Iterable[str]:
        """The stages whose cost the report shows: what its methods need, and what else of a whole job is there."""
        return _shown(run) if run.computes else ()

    def recipe(self, run: Run) -> dict[str, Any]:
        """The settings; prices and sentence model count by their content."""
        from fgvr.evaluation.slices import RULES as SLICE_RULES

        prices, found = billing(run.config).prices, _sentence_model(run)
        facts = run.config.evaluate.model_dump(mode="json", exclude={"prices", "sentence_model"})
        # Newer fields count only where they are used, so that reports of earlier versions are still found.
        if not facts["report_issues"]:
            del facts["report_issues"]
        if facts["leaks"] == "ignore":
            del facts["leaks"]
        if not facts["slice_by"]:
            del facts["slice_by"], facts["slices"]
        else:
            facts["slice_rules"] = SLICE_RULES
        return {
            "evaluate": facts | {"methods": list(dict.fromkeys(run.config.evaluate.methods))},
            "prices": None if prices is None else prices.model_dump(mode="json"),
            "sentence_model": None if found is None else found.identity(),
            "run": run.config.run.name,
            "version": CONTENT,
            **stated_costs(run),
            **stated_kinds(run),
            **({"audited": sorted(audited(run).items())} if audited(run) else {}),
        }

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Compare the names, and write the report."""
        import pyarrow as pa

        from fgvr.evaluation.images import compare, names_of
        from fgvr.metrics.semantic import SentenceBert
        from fgvr.report.page import render
        from fgvr.report.pictures import AspectPictures
        from pipelines import report_content, take_home

        config, compared = run.config.evaluate, compared_images(run)
        load_encoder = cache(lambda: SentenceBert(config.sentence_model))
        _warn(run, compared)
        ids = compared.images.ids
        true = true_names(run, ids)
        tables = {method: run.table(table_of(run, method)) for method in compared.methods}
        names = {str(method): names_of(table.find(ids), ids) for method, table in tables.items()}
        leaked, true = leaks_of(run, ids, names, true)
        comparison = compare(
            names,
            true,
            load_encoder,
            hyphen_to_space=config.hyphen_to_space,
            resamples=config.bootstrap,
            seed=config.seed,
        )
        nearest = report_content.nearest_coverage(run, load_encoder) if compared.with_near else None
        results = replace(
            _results(run, compared, comparison, nearest, (leaked,) if leaked else ()),
            mistakes=_mistakes(run, names, true),
            slices=slices_of(run, ids, names, true, load_encoder),
            hierarchy=by_level(run, names, true),
        )
        if {"calibration", "decided"} <= set(_shown(run)):
            results = replace(results, promise=promise_of(run, results.costs))
        seen = take_home.seen_by(run, compared.methods, ids)
        results = replace(
            results,
            recommendation=(chosen := take_home.recommended(results, names, true, seen)),
            human_labels=take_home.human_labels(run, compared.methods),
            scored_on_training=tuple(method for method, photos in seen.items() if photos.any()),
            next_steps=take_home.next_steps(run, chosen),
        )
        pictures = AspectPictures()
        if "makd" in compared.methods and has_aspects(run):
            aspects, pictures = aspect_report(run, with_base="base" in compared.methods)
            results = replace(results, aspects=aspects)
        folder.write_bytes("metrics.json", results.to_json().encode())
        page = report_content.content(run, compared, tables, results)
        page = replace(page, aspects=pictures, classes=report_content.by_class(results, names, true))
        folder.write_bytes("report.html", render(page).encode())
        _track(run, folder, results)
        columns = {"image_id": ids, "true": pa.array(true, pa.string()), **names}
        summary = folder.write_table(pa.table(columns), ROWS_PER_PART)
        summary.metrics = _numbers(results)
        return summary

    def made(self, run: Run, table: Table) -> None:
        """Copy the latest report to a path that does not depend on the config."""
        from cluster import lease

        lease.check(run.folder)
        for name in FILES:
            storage.write_bytes(storage.join(run.folder, "report", name), storage.read_bytes(table.path(name)))


def whole_job(config: Config) -> list[str]:
    """The tables of a whole job before its report, in the order in which a reader would look at them."""
    return [name for name in WHOLE_JOB if stage_of(name).wanted(config)]


def table_of(run: Run, method: Method) -> str:
    """The table with the names of a method.

    The labels are the MLLM's names of images that are compared anyway, unless other sources had a say in them.
    """
    own = method == "mllm" and run.config.label.combine == "first"
    return "labels" if own and _all_named(run) else f"eval_{method}"


def _all_named(run: Run) -> bool:
    """Whether the MLLM has already named all compared images, because these are discovery images."""
    try:
        labels = run.table("labels").read(["image_id"])["image_id"].to_numpy()
        return bool(np.isin(evaluated(run)[0].ids, labels).all())
    except NotThere:
        return not run.photos.splits.get(run.config.evaluate.split)


@per_run
def _shown(run: Run) -> list[str]:
    """Tables whose stages the report shows, in the order of a whole job: full.py and evaluate.py give the same."""
    look = run.looking()
    names = _in_order(look, [*whole_job(run.config), *Report().consults(run)])
    left = unfinished(look, names)  # what no method needs is not computed for the page, nor are its failed rows again
    return [name for name in names if name not in left]


def _in_order(look: Look, names: Iterable[str]) -> list[str]:
    """These tables and all their inputs, every table after its inputs."""
    found: dict[str, None] = {}

    def visit(name: str) -> None:
        others: list[str] = []
        with suppress(UserError):  # what no method needs may be impossible, as a student of a split that is not there
            others = needs(look, name)
        for other in others:
            if other not in found:
                visit(other)
        found[name] = None

    for name in names:
        if name not in found:
            visit(name)
    return list(found)


@per_run
def _sentence_model(run: Run) -> SentenceModel | None:
    """The sentence model that compares names; None where no class is known. Raises SentenceModelError."""
    from fgvr.metrics.semantic import look_up

    return look_up(run.config.evaluate.sentence_model) if any(true_names(run, evaluated(run)[0].ids)) else None


def _stage_tables(run: Run) -> list[Table]:
    """The finished tables whose stages the report shows."""
    return [run.table(name) for name in _shown(run)]


def _warn(run: Run, compared: Compared) -> None:
    """Log the warnings that a reader needs."""
    images, overlap, config = compared.images, compared.discovery_overlap, run.config
    if "base" in config.evaluate.methods and "base" not in compared.methods:
        log.info("evaluate: makd.base is false, so the student without aspects is left out")
    if images.trained_on:
        split = config.evaluate.split
        log.warning("evaluate: no image is in split %r; methods are compared on the discovery images", split)
    elif overlap:
        log.warning("evaluate: %s of %s images are in the discovery set, too", f"{overlap:,}", f"{len(images.ids):,}")
    for remark in _remarks(run):
        log.warning("evaluate: %s", remark)


def _remarks(run: Run) -> tuple[str, ...]:
    """Remarks for the reader: about the source, about made-up data, and about how models were asked."""
    from fgvr.report.results import stage_remarks
    from fgvr.versions import mixture

    tables = _stage_tables(run)
    invented = sorted({table.name for table in tables if MADE_UP in table.extra})
    said = f"MADE UP: simulated models gave the tables {', '.join(invented)}; no number here means anything"
    own = run.table("samples").extra.get("remarks", ())
    mixed = mixture([(table.name, table.made_with) for table in tables])
    others = [table for table in tables if table.name != "samples"]
    return (*own, *([said] if invented else []), *([mixed] if mixed else []), *stage_remarks(others))


def _results(
    run: Run, compared: Compared, comparison: Comparison, nearest_coverage: float | None, remarks: tuple[str, ...]
) -> Results:
    from fgvr.report.costs import method_costs
    from fgvr.report.results import EvaluationSet, Results, stage_results
    from pipelines import report_content

    students = [method for method in ("makd", "base") if method in compared.methods]
    class_targets = str(run.table(students[0]).extra.get("class_targets", "")) if students else ""
    candidates = None
    if compared.with_near:
        candidates = report_content.candidate_facts(run.table("candidates"), run.table("near"), nearest_coverage)
    stages, images, found = stage_results(_stage_tables(run)), compared.images, _sentence_model(run)
    paid = {method: paid_by(run, method, table_of(run, method)) for method in compared.methods}
    return Results(
        run=run.config.run.name,
        evaluation=EvaluationSet(
            split=images.split,
            images=len(images.ids),
            scored=comparison.scored,
            classes=comparison.classes,
            trained_on=images.trained_on,
            sacc_model="" if found is None else found.name,
            discovery_overlap=compared.discovery_overlap,
            remarks=(*_remarks(run), *left_out(run, compared.images.split), *remarks),
            class_targets=class_targets,
        ),
        methods=comparison.methods,
        stages=stages,
        agreement=comparison.agreement,
        label_space=report_content.label_space(run.table("labels")),
        candidates=candidates,
        costs=method_costs(paid, stages, assumed_billing(run.config)),
        selection=report_content.selection_facts(run),
        learned_from={method: report_content.learned_from(run, method) for method in compared.methods},
    )


def _mistakes(run: Run, names: Mapping[str, Sequence[str]], true: Sequence[str | None]) -> dict[str, Tracks] | None:
    """What each method's mistakes cost; None where no costs are configured or no class is known."""
    from fgvr.evaluation.mistakes import mistakes_of
    from fgvr.heads.costs import CostFile
    from fgvr.names.label_space import read_label_space

    costs = None if run.config.infer.costs is None else costs_at(run)
    if not isinstance(costs, CostFile) or not any(true):
        return None
    nameable = read_label_space(run.table("labels")).labels
    return {method: mistakes_of(said, true, costs, nameable) for method, said in names.items()}


def _numbers(results: Results) -> dict[str, float]:
    """Metrics for MLflow: `near.top1`, `near.sacc.all-MiniLM-L6-v2` …; sACC values of two models are not comparable."""
    from fgvr.metrics.scores import METRICS

    # The name of a model in a folder, `my model@1f2e3d4c`, has characters that a metric's name may not have.
    model = re.sub(r"[^\w.-]+", "-", results.evaluation.sacc_model.rstrip("/").rsplit("/", 1)[-1], flags=re.ASCII)
    costs = {
        f"{method}.mistakes.{name}": value
        for method, mistakes in (results.mistakes or {}).items()
        for name, value in asdict(mistakes).items()
    }
    levels = {
        f"{method}.hierarchy.{metric}": value
        for method, scores in (results.hierarchy or {}).items()
        for metric, value in scores.numbers().items()
    }
    return (
        costs
        | levels
        | slice_numbers(results.slices, f"sacc.{model}")
        | {
            f"{method}.{metric}{f'.{model}' if metric == 'sacc' else ''}": getattr(result.scores, metric)
            for method, result in results.methods.items()
            if result.scores is not None
            for metric in METRICS
        }
    )


def _track(run: Run, table: StageFolder, results: Results) -> None:
    """Record the report's metrics and files, and the alias table, in the MLflow run of the whole pipeline.

    Called while the stage is computed: they are saved with the stage's note, which is sent to MLflow after the commit.
    If the process dies in between, the next one sends them.
    """
    tracker = table.context.tracker
    tracker.log_metrics(_numbers(results))
    tracker.describe(_description(run, results))
    for name in FILES:
        tracker.log_file(table.path(name), "report")
    tracker.log_file(run.table("labels").path("aliases.csv"), "labels")


def _description(run: Run, results: Results) -> str:
    """The results as a table in Markdown, what is recommended, and where the report is."""
    from fgvr.report.console import METHOD_TITLES

    lines = ["| method | top-1 | sACC | cACC |", "|---|---|---|---|"]
    for name, method in results.methods.items():
        found = method.scores
        cells = ("–", "–", "–") if found is None else (f"{each:.1f}" for each in (found.top1, found.sacc, found.cacc))
        lines.append(f"| {METHOD_TITLES.get(name, name)} | {' | '.join(cells)} |")
    compared = results.evaluation
    return "\n\n".join(
        [
            *([] if results.recommendation is None else [results.recommendation.why]),
            f"{compared.images:,} images compared, {compared.scored:,} with a known name.",
            "\n".join(lines),
            f"Report: {masked(storage.join(run.folder, 'report', 'report.html'))}",
        ]
    )


def show(run: Run) -> None:
    """Print the results, and where the report and the MLflow runs are."""
    from fgvr.report.console import results_table
    from pipelines.take_home import files_line, finished_predictions

    folder = storage.join(run.folder, "report")
    sys.stdout.write(results_table(storage.read_bytes(storage.join(folder, "metrics.json")).decode()))
    sys.stdout.write(f"\nreport: {storage.join(folder, 'report.html')}\n")
    sys.stdout.write(files_line(folder, finished_predictions(run)))
    mlflow = Path(sys.executable).with_name("mlflow")
    sys.stdout.write(f"MLflow: {mlflow} ui --backend-store-uri {masked(run.context.tracker.uri)}\n")


if __name__ == "__main__":
    stage_main(__doc__, "report", show=show)
