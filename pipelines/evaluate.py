"""evaluate: how good every method is, and what the run cost. Out: report/metrics.json, report/report.html, a table.

    python pipelines/evaluate.py --evaluate.methods "[zs_clip, near, makd]" --evaluate.max_images 500

Methods name the images of `evaluate.split`; the names are compared with the true classes where the data has some, and
with each other. Where no image is in that split, as with a plain folder of photos, the discovery images stand in.
The table has a row for each image, with its true name and a column for each method's name.
"""

from __future__ import annotations

import logging
import re
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import fgvr
from cluster import lease
from cluster.stage import RunContext, StageFolder, StageSummary
from fgvr import storage
from fgvr.config import ConfigError, Evaluate
from fgvr.config.run import Method
from fgvr.evaluation import Comparison, choose_images, compare, names_of, readable, strings
from fgvr.metrics.scores import METRICS
from fgvr.metrics.semantic import SentenceBert, look_up
from fgvr.report.aspect_pictures import AspectPictures
from fgvr.report.cards import choose_examples
from fgvr.report.console import results_table
from fgvr.report.costs import Billing, method_costs
from fgvr.report.page import render
from fgvr.report.results import EvaluationSet, Results, stage_remarks, stage_results
from fgvr.safe_text import masked
from fgvr.simulation import MADE_UP
from fgvr.tables import Table
from fgvr.versions import mixture
from pipelines import report_aspects, report_content
from pipelines.billing import billing
from pipelines.flow import Flow, stage_main
from pipelines.methods import predict
from pipelines.preflight import check_evaluation
from pipelines.report_content import Compared

log = logging.getLogger(__name__)

FILES = ("metrics.json", "report.html")
ROWS_PER_PART = 2**18


def run(context: RunContext, flow: Flow) -> Table:
    """Evaluate all methods and write the report.

    Raises:
        SentenceModelError: there are true classes, and no Sentence-BERT model to compare names with.
    """
    config = context.config.evaluate
    bills = billing(context.config)  # a slip in the price file shows before hours are spent
    compared = compared_images(context, flow)
    _warn(context, flow, compared)
    true = strings(flow.samples.take(compared.images.ids, ["class_name"])["class_name"]).tolist()
    # Raised before minutes are spent; without truth no model is needed.
    found = look_up(config.sentence_model) if any(true) else None
    sentence_model = "" if found is None else found.name
    tables = {method: predict(context, flow, method, compared.ids_for(method)) for method in _methods(context)}
    asked = report_aspects.aspect_images(context, flow) if "makd" in compared.methods else None
    load_encoder = cache(lambda: SentenceBert(config.sentence_model))

    def compute(folder: StageFolder) -> StageSummary:
        ids = compared.images.ids
        names = {str(method): names_of(table.find(ids), ids) for method, table in tables.items()}
        comparison = compare(
            names,
            true,
            load_encoder,
            hyphen_to_space=config.hyphen_to_space,
            resamples=config.bootstrap,
            seed=config.seed,
        )
        nearest = report_content.nearest_coverage(flow, load_encoder) if compared.with_near else None
        results = _results(
            context, flow, compared, comparison, sentence_model=sentence_model, bills=bills, nearest_coverage=nearest
        )
        pictures = AspectPictures()
        if asked is not None:
            with_base = "base" in compared.methods
            aspects, pictures = report_aspects.aspect_report(flow, asked, with_base=with_base)
            results = replace(results, aspects=aspects)
        folder.write_bytes("metrics.json", results.to_json().encode())
        page = report_content.content(context.config, flow, compared, tables, results)
        folder.write_bytes("report.html", render(replace(page, aspects=pictures)).encode())
        _track(context, flow, folder, results)
        columns = {"image_id": ids, "true": pa.array(true, pa.string()), **names}
        summary = folder.write_table(pa.table(columns), ROWS_PER_PART)
        summary.metrics = _numbers(results)
        return summary

    facts = {
        "prices": None if bills.prices is None else bills.prices.model_dump(mode="json"),
        "sentence_model": None if found is None else found.identity(),
        "run": context.config.run.name,
        "version": fgvr.__version__,
    }
    # The page shows what every stage took, so each of them is an input.
    inputs = list({found.uri: found for found in context.tables if found.name != "report"}.values())
    table = context.stage("report", decides={"evaluate": _deciding(config), **facts}, inputs=inputs, compute=compute)
    lease.check(context.folder)
    for name in FILES:  # one place that does not change with the config, and holds what was asked for last
        storage.write_bytes(storage.join(context.folder, "report", name), storage.read_bytes(table.path(name)))
    return table


def _deciding(config: Evaluate) -> dict[str, Any]:
    """What of the settings stands in the report's fingerprint: files and models are there by what they hold."""
    facts = config.model_dump(mode="json", exclude={"prices", "sentence_model"})
    return facts | {"methods": list(dict.fromkeys(config.methods))}


def compared_images(context: RunContext, flow: Flow) -> Compared:
    """Which images the methods name."""
    config = context.config.evaluate
    methods = _methods(context)
    labelled = readable(flow.labels.read(["image_id", "label_id", "error"]))
    images = choose_images(
        flow.samples.batches(["image_id", "split", "class_name"]),
        labelled["image_id"].to_numpy(),
        split=config.split,
        max_images=config.max_images,
        seed=config.seed,
    )
    overlap = int(np.isin(images.ids, labelled["image_id"].to_numpy()).sum())
    settled = flow.near.read(["image_id", "label_id"]) if "near" in methods else labelled
    examples = choose_examples(labelled, settled, config.report_images, config.seed)
    return Compared(images, examples, methods, overlap)


def _warn(context: RunContext, flow: Flow, compared: Compared) -> None:
    """What a reader must know, on the console."""
    images, overlap, split = compared.images, compared.discovery_overlap, context.config.evaluate.split
    if images.trained_on:
        log.warning("evaluate: no image is in split %r; methods are compared on discovery images", split)
    elif overlap:
        log.warning("evaluate: %s of %s images are in the discovery set, too", f"{overlap:,}", f"{len(images.ids):,}")
    for remark in _remarks(flow):
        log.warning("evaluate: %s", remark)


def ask_mllm(context: RunContext, flow: Flow) -> None:
    """Have the MLLM name the compared images while its engine is loaded: trainings take its place in the cluster."""
    if "mllm" not in _methods(context):
        return
    known = len(context.tables)
    predict(context, flow, "mllm", compared_images(context, flow).ids_for("mllm"))
    del context.tables[known:]  # the report names its tables in the order in which the methods are compared


def _remarks(flow: Flow) -> tuple[str, ...]:
    """What else a reader must know: about the source, what was made up, and how models were asked."""
    invented = sorted({table.name for table in flow.context.tables if MADE_UP in table.extra})
    said = f"MADE UP: simulated models gave the tables {', '.join(invented)}; no number here means anything"
    own = flow.samples.extra.get("remarks", ())
    others = [table for table in flow.context.tables if table.name != flow.samples.name]
    mixed = mixture([(table.name, table.made_with) for table in flow.context.tables])
    return (*own, *([said] if invented else []), *([mixed] if mixed else []), *stage_remarks(others))


def _methods(context: RunContext) -> list[Method]:
    """The configured methods; raises ConfigError for `base` where `makd.base` says not to train it."""
    methods = list(dict.fromkeys(context.config.evaluate.methods))
    if not methods:
        raise ConfigError("evaluate.methods is empty: name at least one method")
    if "base" in methods and not context.config.makd.base:
        log.info("evaluate: makd.base is false, so the student without aspects is left out")
        methods.remove("base")
    return methods


def _results(
    context: RunContext,
    flow: Flow,
    compared: Compared,
    comparison: Comparison,
    *,
    sentence_model: str,
    bills: Billing,
    nearest_coverage: float | None,
) -> Results:
    trained = flow.makd if "makd" in compared.methods else flow.base if "base" in compared.methods else None
    class_targets = "" if trained is None else str(trained.extra.get("class_targets", ""))
    candidates = None
    if compared.with_near:
        candidates = report_content.candidate_facts(flow.candidates, flow.near, nearest_coverage)
    stages = stage_results(context.tables)
    images = compared.images
    return Results(
        run=context.config.run.name,
        evaluation=EvaluationSet(
            split=images.split,
            images=len(images.ids),
            scored=comparison.scored,
            classes=comparison.classes,
            trained_on=images.trained_on,
            sacc_model=sentence_model,
            discovery_overlap=compared.discovery_overlap,
            remarks=_remarks(flow),
            class_targets=class_targets,
        ),
        methods=comparison.methods,
        stages=stages,
        agreement=comparison.agreement,
        label_space=report_content.label_space(flow.labels),
        candidates=candidates,
        costs=method_costs(compared.methods, stages, bills, class_targets=class_targets),
    )


def _numbers(results: Results) -> dict[str, float]:
    """`near.top1`, `near.sacc.all-MiniLM-L6-v2` and so on, for MLflow: sACC of two models does not compare."""
    # Of a folder it is the folder's name with a digest, `my model@1f2e3d4c`, which is no name of a metric.
    model = re.sub(r"[^\w.-]+", "-", results.evaluation.sacc_model.rstrip("/").rsplit("/", 1)[-1], flags=re.ASCII)
    return {
        f"{method}.{metric}{f'.{model}' if metric == 'sacc' else ''}": getattr(result.scores, metric)
        for method, result in results.methods.items()
        if result.scores is not None
        for metric in METRICS
    }


def _track(context: RunContext, flow: Flow, table: StageFolder, results: Results) -> None:
    """Numbers and files of the report, and the alias table, at the pipeline's own MLflow run.

    Called while the stage is computed: they are kept with its note, which is told when the stage is done, so that a
    process which dies in between leaves them to be told.
    """
    context.tracker.log_metrics(_numbers(results))
    for name in FILES:
        context.tracker.log_file(table.path(name), "report")
    context.tracker.log_file(flow.labels.path("aliases.csv"), "labels")


def show(flow: Flow) -> None:
    """The results on the console, and where the report and the MLflow runs are."""
    context, folder = flow.context, storage.join(flow.context.folder, "report")
    flow.report  # noqa: B018  # asking for a table computes it
    sys.stdout.write(results_table(storage.read_bytes(storage.join(folder, "metrics.json")).decode()))
    sys.stdout.write(f"\nreport: {storage.join(folder, 'report.html')}\n")
    mlflow = Path(sys.executable).with_name("mlflow")
    sys.stdout.write(f"MLflow: {mlflow} ui --backend-store-uri {masked(context.tracker.uri)}\n")


if __name__ == "__main__":
    stage_main(__doc__, show, check=check_evaluation, asks=("report",))
