"""The content of the report, gathered from the tables of a run."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime

import numpy as np

from cluster import budget
from fgvr import storage
from fgvr.arrays import NONE
from fgvr.beliefs.guard import Verdict
from fgvr.candidates.agreement import Agreement, truth_in_words, verdict_in_words
from fgvr.candidates.sets import coverage, read_sets
from fgvr.config import Config, Discovery, FileVectors, TimmVectors
from fgvr.config.label_sources import AnswerFile
from fgvr.config.run import Method
from fgvr.metrics.label_space import statistics
from fgvr.metrics.semantic import nearest_names
from fgvr.names.label_space import read_label_space
from fgvr.names.merging import NameEncoder
from fgvr.redact import masked
from fgvr.report import take_home
from fgvr.report.cards import ExampleRows, build_cards, issue_cards, unsure_cards
from fgvr.report.confusions import ClassScores, class_scores
from fgvr.report.console import METHOD_TITLES
from fgvr.report.estimates import outcomes, read_estimates
from fgvr.report.page import ImageCard, IssueCard, ReportContent
from fgvr.report.results import CandidateFacts, LabelSpace, Results
from fgvr.report.selection import SelectionFacts
from fgvr.sources.omissions import sentences
from fgvr.tables import Table
from pipelines.billing import assumed_billing
from pipelines.compared import Compared
from pipelines.run_tables import Run
from pipelines.take_home import finished_predictions

UNSURE = 12
"""Photos with the lowest scores that the page shows."""
UNCOMPARED = "candidate sets and own labels were not compared"


def label_space(labels: Table) -> LabelSpace:
    """The vocabulary of a labels table, and how many answers were changed to another spelling or name."""
    names = labels.read(["label"])["label"].fill_null("").to_pylist()
    space = read_label_space(labels)
    images = Counter(names)  # an image counts for its label only; the label space also holds its other candidates
    counts = sorted(((name, images[name]) for name in space.labels), key=lambda pair: (-pair[1], pair[0]))
    aliases = csv.DictReader(io.StringIO(storage.read_bytes(labels.path("aliases.csv")).decode()))
    merged = sum(row["answer"] != row["label"] for row in aliases)
    return LabelSpace(statistics(names), counts, merged)


def nearest_coverage(run: Run, load_encoder: Callable[[], NameEncoder]) -> float | None:
    """Share of candidate sets with the name nearest in meaning to the true class; None where no class is known.

    The sentence model is loaded only where a class is known.
    """
    names = read_label_space(run.table("labels")).labels
    rows = run.table("candidates").read(["image_id", "label_ids", "weights"])
    classes = run.table("samples").take(rows["image_id"].to_numpy(), ["class_name"])["class_name"].to_pylist()
    known = np.array([bool(name) for name in classes], dtype=bool)
    if not names or not known.any():
        return None
    truth = np.full(len(classes), NONE, dtype=np.int32)
    truth[known] = nearest_names([name for name in classes if name], names, load_encoder())
    return coverage(read_sets(rows), truth)


def candidate_facts(candidates: Table, near: Table, nearest: float | None = None) -> CandidateFacts:
    """The quality of the candidate sets, as the stages candidates and near estimated and measured it.

    Args:
        candidates: the candidates table.
        near: the table of disambiguated labels.
        nearest: result of `nearest_coverage`.
    """
    metrics: Mapping[str, float] = candidates.extra.get("metrics", {})
    agreement = Agreement(**candidates.extra.get("agreement", {}))
    told = not agreement.unfounded
    guard = candidates.extra.get("guard")
    verdict = None if guard is None or agreement.singular else Verdict(**guard)
    expectation = UNCOMPARED if verdict is None else verdict.in_words()
    if agreement.singular:
        expectation = f"no verdict on candidate sets: {agreement.singular}"
    helps = None if verdict is None else verdict.helps
    settled = near.extra.get("metrics", {}).get("true_disambiguated_accuracy")
    accuracy, precision = metrics.get("true_label_accuracy"), metrics.get("true_neighbour_precision")
    known = "" if accuracy is None or precision is None else truth_in_words(agreement, accuracy, precision)
    return CandidateFacts(
        mean_size=metrics.get("mean_candidates", 0.0),
        coverage=metrics.get("coverage"),
        nearest_coverage=nearest,
        label_accuracy=agreement.label_accuracy if told else None,
        neighbour_precision=agreement.neighbour_precision if told else None,
        expected_to_help=helps,
        expectation=expectation,
        truth="; ".join(words for words in (known, verdict_in_words(helps, accuracy, settled)) if words),
        true_label_accuracy=accuracy,
        candidate_accuracy=metrics.get("true_candidate_accuracy"),
        disambiguated_accuracy=settled,
    )


def selection_facts(run: Run) -> SelectionFacts | None:
    """Which images were asked about, and what they cover; None where they were drawn at random."""
    from fgvr.selection.coverage import Reach, coverage
    from pipelines.selection import COUNTS, DOUBLED, label_ids

    images = run.config.label.images
    if not images.chosen:
        return None
    selected = run.table("selected")
    rows, metrics = selected.read(), selected.extra["metrics"]
    ids = rows["image_id"].to_numpy()
    near = rows["nearest_id"].fill_null(NONE).to_numpy()
    reached = Reach(
        counts=np.array(selected.extra[COUNTS]),
        nearest=np.where(near == NONE, NONE, np.searchsorted(ids, near)),
        similarity=rows["similarity"].fill_null(-1).to_numpy(),
        stands_for=rows["stands_for"].to_numpy(),
    )
    doubled = selected.extra[DOUBLED]
    found = coverage(reached, label_ids(run.table("labels"), ids), None if doubled is None else np.array(doubled))
    estimates = {} if found is None else asdict(found)
    classes = {name: int(metrics[name]) for name in ("classes", "classes_reached") if name in metrics}
    return SelectionFacts(
        how=images.select,
        rounds=run.config.label.rounds,
        asked=selected.rows,
        pool=int(metrics["pool"]),
        without_vector=int(metrics["without_vector"]),
        why=dict(Counter(rows["why"].to_pylist())),
        **classes,
        **estimates,
    )


def content(run: Run, compared: Compared, tables: Mapping[Method, Table], results: Results) -> ReportContent:
    """Everything that the report shows; `tables` are the methods' predictions."""
    cards = _cards(run, compared, tables) if len(compared.examples) else []
    issues = _issues(run) if run.config.evaluate.report_issues else []
    created = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    found = outcomes(read_estimates(run.folder), results.stages, assumed_billing(run.config))
    facts = _facts(run, results)
    shown = ReportContent(results, facts, cards, created, issues=issues, outcomes=found, spent=_spent(run))
    predictions = finished_predictions(run)
    if predictions is None:
        return shown
    tally = take_home.tally(predictions, UNSURE)
    ids = np.array([each.image_id for each in tally.unsure], np.int64)
    samples = run.table("samples").take(ids, ["image_id", "uri", "class_name"]).to_pylist()
    return replace(
        shown,
        tally=tally,
        predicted_by=_predicted_by(run.config),
        unsure=unsure_cards(tally.unsure, samples, run.config.ingest.limits),
    )


def _predicted_by(config: Config) -> str:
    model = config.infer.model
    return METHOD_TITLES[config.infer.trained] if model is None else f"the model {masked(model)}"


def by_class(results: Results, names: Mapping[str, Sequence[str]], true: Sequence[str | None]) -> ClassScores | None:
    """Right names by class of the recommended method, else of the best; None where no class is known."""
    scored = {name: each.scores.top1 for name, each in results.methods.items() if each.scores is not None}
    if not scored:
        return None
    chosen = "" if results.recommendation is None else results.recommendation.method
    method = chosen if chosen in scored else max(scored, key=lambda name: (name != "mllm", scored[name]))
    return class_scores(method, names[method], true)


def _spent(run: Run) -> str:
    """What the run has spent so far of its budget."""
    spending, limit = budget.current(), run.config.run.budget
    if spending is None or limit.is_open:
        return ""
    return f"Spent so far, over all sessions: {spending.spent.in_words(limit)} of {limit.in_words()} (run.budget)."


def _cards(run: Run, compared: Compared, tables: Mapping[Method, Table]) -> list[ImageCard]:
    ids = compared.examples
    none = run.table("labels").find(ids[:0], [])
    rows = ExampleRows(
        samples=run.table("samples").take(ids, ["image_id", "uri", "class_name"]),
        labels=run.table("labels").find(ids, ["raw", "label"]),
        candidates=run.table("candidates").find(ids, ["label_ids", "weights"]) if compared.with_near else none,
        disambiguated=run.table("near").find(ids, ["label_ids", "weights"]) if compared.with_near else none,
        predictions={
            method: table.find(ids, ["label", "score"]) for method, table in tables.items() if method != "mllm"
        },
    )
    space = read_label_space(run.table("labels"))
    return build_cards(rows, space.labels, run.config.ingest.limits)


def _issues(run: Run) -> list[IssueCard]:
    """The labels that are most probably wrong, worst first."""
    table = run.table("issues").read()
    table = table.filter(table["score"].is_valid()).sort_by([("score", "descending"), ("image_id", "ascending")])
    rows = table.slice(0, run.config.evaluate.report_issues).to_pylist()
    ids = np.array([row["image_id"] for row in rows], dtype=np.int64)
    samples = run.table("samples").take(ids, ["image_id", "uri", "class_name"])
    return issue_cards(rows, samples.to_pylist(), run.config.ingest.limits)


def _discovery(config: Discovery, images: int) -> str:
    drawn = "" if config.per_class is None else f", {config.per_class} per class"
    chosen = f", {config.select}" if config.chosen else ""
    return f"{images:,} of {config.drawn_from}{drawn}{chosen}, seed {config.seed}"


NAMERS = {"near": "NeaR's names", "heads": "the head's names", "label_prototypes": "the prototypes' names"}
"""Tables beside which lies a model whose names a student learned."""


def learned_from(run: Run, method: str) -> str:
    """Whose names a trained method or prototypes of labels learned from, of which images, and what was made of them.

    "" for methods that only choose among the names.
    """
    config, source, images = run.config, "", run.config.label.images
    if method in {"makd", "base"}:
        named_by = str(run.table(method).extra.get("class_targets", "true"))
        if named_by == "true":
            return "true classes"
        count = int(run.table(method).extra.get("images", 0))
        source = f"{NAMERS[named_by]} of {count:,} images; these learned from " if count else f"{NAMERS[named_by]}, of "
        method = named_by
    elif method not in {"near", "label_prototypes", "heads"}:
        return ""
    source += _titles(config)[0] if config.label.combine == "first" else " and ".join(_titles(config)) + " together"
    drawn = f"{images.per_class} images per true class" if images.per_class is not None else f"{images.select} images"
    made = "; some of them checked by a person" if config.label.checked is not None else ""
    made += "; asked again about suspicious ones" if config.label.reask else ""
    if method not in {"label_prototypes", "heads"} or (method == "heads" and config.heads.learns_from_sets):
        made += f"; candidate sets: {run.table('candidates').extra.get('used', config.candidates.method)}"
    return f"{source}; {drawn}{' in two rounds' if config.label.rounds > 1 else ''}{made}"


def _titles(config: Config) -> list[str]:
    """What each source of labels is called."""
    return [
        f"{source.name} ({_file_name(source.path)})"
        if isinstance(source, AnswerFile)
        else f"{source.name} ({(source.mllm or config.mllm).title})"
        for source in config.label.sources
    ] or [config.mllm.title]


def own_inputs(config: Config) -> list[tuple[str, str]]:
    """Where labels and vectors come from, where it is not the MLLM and the CLIP of the run."""
    facts: list[tuple[str, str]] = []
    vectors = config.embed.vectors
    if config.label.sources:
        own = "the first gives the label" if config.label.combine == "first" else "labels are what all say together"
        facts.append((f"Label sources, {own}", "; ".join(_titles(config))))
    match vectors:
        case TimmVectors():
            facts.append(("Vectors", _file_name(vectors.model)))
        case FileVectors():
            facts.append(("Vectors", f"of the file {_file_name(vectors.path)}"))
    return facts


def _file_name(place: str) -> str:
    return place.rstrip("/").rpartition("/")[2]


def photo_facts(samples: Table) -> list[tuple[str, str]]:
    """The number of photos in the samples table, and what its source left out."""
    splits: dict[str, int] = samples.extra.get("splits", {})
    counts = ", ".join(f"{name} {count:,}" for name, count in sorted(splits.items()))
    left_out = sentences(samples.extra.get("left_out", {}))
    return [("Photos", f"{samples.rows:,} ({counts})"), *(("Left out", said) for said in left_out.values())]


def _facts(run: Run, results: Results) -> list[tuple[str, str]]:
    config = run.config
    facts = [
        *photo_facts(run.table("samples")),
        ("Discovery set, which gets labels", _discovery(config.label.images, run.table("labels").rows)),
        ("MLLM", config.mllm.title),
        ("CLIP", " ".join(filter(None, [config.clip.model, config.clip.pretrained]))),
        *own_inputs(config),
    ]
    if "near" in results.methods:
        near = config.near
        k = run.table("candidates").extra["metrics"]["images_a_set"]
        used = run.table("candidates").extra.get("used", config.candidates.method)
        facts.append(("Candidates", f"{used}, k = {k:.0f}"))
        facts.append(("NeaR", f"{near.loss}, {near.context_length} context tokens, {near.epochs} epochs"))
    if {"base", "makd"} & results.methods.keys():
        trained = run.table("makd") if "makd" in results.methods else run.table("base")
        epochs = trained.extra.get("epochs", config.makd.epochs)  # fewer where makd.max_steps ends training
        facts.append(("Student", f"{config.makd.backbone}, {epochs} epochs, α = {config.makd.alpha:g}"))
        taught = config.makd.distillation
        if taught.kind != "none":
            facts.append(("Teacher of the students", f"{taught.teacher}, {taught.kind}, T = {taught.temperature:g}"))
    if "makd" in results.methods:
        facts.append(("Aspect questions", f"{run.table('questions').rows:,}"))
    return facts
