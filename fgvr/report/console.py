"""Descriptions of methods and metrics, shared by the console table and the page, and the console table itself."""

from __future__ import annotations

import json
from textwrap import wrap
from typing import Any

from fgvr.evaluation.slices import Slices
from fgvr.failures import Failures, table_place
from fgvr.metrics.scores import METRICS
from fgvr.part_worker import UNCOUNTED
from fgvr.redact import printable
from fgvr.report.prices import money
from fgvr.report.results import EVALUATION, FEWEST_TIMED
from fgvr.report.selection import SelectionFacts

METHOD_TITLES = {
    "mllm": "MLLM",
    "zs_clip": "ZS-CLIP",
    "zs_wordnet": "ZS-CLIP-WordNet",
    "cased": "CaSED",
    "prototypes": "Prototypes",
    "finer": "FineR",
    "findr": "FiNDR-style",
    "near": "NeaR",
    "label_prototypes": "Label prototypes",
    "heads": "Head",
    "base": "Student",
    "makd": "Student + aspects",
}
METHOD_MEANINGS = {
    "mllm": "the multimodal LLM names every image itself: the most expensive way",
    "zs_clip": "CLIP without training picks among the names that the MLLM gave",
    "zs_wordnet": "CLIP without training picks among all nouns of WordNet",
    "cased": "words of the captions nearest to the image, chosen by their match with image and captions (CaSED)",
    "prototypes": "prototypes of the MLLM's names: 70% the name's text, 30% the mean of the images that vote for it",
    "finer": "prototypes of the names that a language model gave for the MLLM's answers to questions",
    "findr": "prototypes of the names that the MLLM gave when it was asked as an expert",
    "near": "CLIP with a prompt learned on candidate sets of neighbours' labels",
    "label_prototypes": "each name's mean vector over the images whose own label it is; nothing is trained",
    "heads": "a small classifier trained on stored vectors and the images' labels",
    "base": "a small network trained on class targets only",
    "makd": "the same network, also trained on the MLLM's answers to aspect questions (MaKD)",
}
METRIC_TITLES = {"sacc": "sACC", "cacc": "cACC", "siou": "sIoU", "top1": "top-1"}
METRIC_MEANINGS = {
    "sacc": "similarity in meaning of predicted and true name (cosine of Sentence-BERT vectors, × 100)",
    "cacc": "share of images that are right under the best one-to-one match of names and classes",
    "siou": "overlap of the words of predicted and true name (intersection over union)",
    "top1": "share of images whose predicted name is the true one, apart from case and punctuation",
}
FAILURE_MEANINGS = {
    "not_found": "there is nothing at the URI",
    "unreadable": "no permission, no connection, or a folder where a file should be",
    "not_allowed": "the policy of ingest.limits (web, allowed_roots), or of what is read from, forbids the address",
    "empty_file": "the file has no bytes",
    "too_many_bytes": "the file is larger than the limit, and was not read",
    "too_many_pixels": "the image is larger than the limit, and was not decoded",
    "corrupt": "an image, but truncated or damaged",
    "not_an_image": "no image format that is read here",
    "wrong_size": "its boxes were drawn on an image of another size",
    "refused": "the model answered that it cannot or will not say",
    "not_yet": "not computed yet",
    "struck_out": "a person decided that the name is none, or not that of the photo",
    "empty_answer": "no name was found in the answer, or it was cut off before one",
    "nothing_there": "the model answered that the photo shows no such thing",
    "other_language": "the model answered with a sentence in a language that is not read",
    "no_label_mass": "neither yes nor no was a probable answer",
    "request_rejected": "the engine rejected the request",
    "engine_error": "the engine or server failed on this request",
    "no_input": "an earlier stage failed on this row",
    "not_in_file": "the file of answers or vectors has no row about the photo",
    "contradiction": "the file says two different things about the photo",
    "bad_vector": "the file's vector has length 0, or values that are no finite numbers",
}


# The table of results printed at the end of a run.

ASPECTS = EVALUATION + "aspects"
"""The aspects of training images; no names are compared there."""


def results_table(metrics: str) -> str:
    """A table for a terminal of 100 columns, from the content of metrics.json."""
    facts = json.loads(metrics)
    evaluation = facts["evaluation"]
    lines = [_headline(evaluation), ""]
    lines += _scores(facts["methods"], evaluation) if evaluation["scored"] else _agreement(facts)
    lines += [
        "",
        *_slices(facts.get("slices")),
        *_recommendation(facts.get("recommendation")),
        *_selection(facts.get("selection")),
        *_candidates(facts["candidates"]),
        *_stages(facts["stages"], evaluation["images"]),
        "",
        _cost(facts["cost"]),
    ]
    if facts.get("costs"):
        lines += ["", *_costs(facts["costs"], facts["stages"])]
    for step in facts.get("next", ()):
        lines += ["", *wrap(f"{step['why']}:", 98), f"  {step['run']}"]
    return "".join(f"{printable(line).rstrip()}\n" for line in lines)


def _headline(evaluation: dict[str, Any]) -> str:
    where = f"{evaluation['images']:,} images of split {evaluation['split']!r}"
    if not evaluation["scored"]:
        return f"Evaluation on {where}; no true classes are known, so only agreement is shown."
    warning = "; THESE WERE TRAINED ON, there is no other split" if evaluation["trained_on"] else ""
    return f"Evaluation on {where}, {evaluation['classes']} classes{warning}. 0-100, higher is better."


def _scores(methods: dict[str, Any], evaluation: dict[str, Any]) -> list[str]:
    titles = {metric: METRIC_TITLES[metric] for metric in METRICS}
    lines = [f"{'':18}" + "".join(f"{title:>14}" for title in titles.values()) + f"{'names':>8}"]
    for name, scores in methods.items():
        cells = "".join(f"{_with_interval(scores, metric):>14}" for metric in titles)
        lines.append(f"{METHOD_TITLES.get(name, name):18}{cells}{scores['names']:>8,}")
    width = max(len(METHOD_TITLES.get(name, name)) for name in methods) if methods else 0
    lines += ["", f"(± half of the 95% bootstrap interval; sACC with {evaluation['sacc_model']})"]
    lines += [f"  {METHOD_TITLES.get(name, name):{width}}  {METHOD_MEANINGS.get(name, '')}" for name in methods]
    return lines


def _with_interval(scores: dict[str, Any], metric: str) -> str:
    interval = scores["intervals"].get(metric)
    half = "" if interval is None else f" ±{(interval[1] - interval[0]) / 2:4.1f}"
    return f"{scores[metric]:.1f}{half}"


def _agreement(facts: dict[str, Any]) -> list[str]:
    names = facts["agreement"]["methods"]
    lines = ["Share of images with the same name from both methods:"]
    lines += [f"{'':18}" + "".join(f"{METHOD_TITLES.get(name, name):>19}" for name in names)]
    for name, row in zip(names, facts["agreement"]["share"], strict=True):
        lines.append(f"{METHOD_TITLES.get(name, name):18}" + "".join(f"{100 * share:>18.1f}%" for share in row))
    return lines


def _selection(chosen: dict[str, Any] | None) -> list[str]:
    if chosen is None:
        return []
    return ["Asked about:", *(f"  {sentence}" for sentence in SelectionFacts(**chosen).sentences()), ""]


def _recommendation(facts: dict[str, Any] | None) -> list[str]:
    if facts is None:
        return []
    method = facts["method"]
    said = f"Recommended model: {METHOD_TITLES.get(method, method) if method else 'none'}. {facts['why']}"
    lines = wrap(said, 98, subsequent_indent="  ")
    for name, why in facts["left_out"].items():
        lines += wrap(
            f"Not compared: {METHOD_TITLES.get(name, name)}, {why}.", 98, initial_indent="  ", subsequent_indent="    "
        )
    return [*lines, ""]


def _slices(facts: dict[str, Any] | None) -> list[str]:
    if facts is None:
        return []
    return [*wrap(Slices.from_json(facts).sentence(METHOD_TITLES), 98, subsequent_indent="  "), ""]


def _candidates(sets: dict[str, Any] | None) -> list[str]:
    if sets is None:
        return []
    said = [sets[what] for what in ("expectation", "truth") if sets[what]]
    lines = [line for words in said for line in wrap(words, 98, initial_indent="  ", subsequent_indent="    ")]
    return ["Candidate sets:", *lines, ""]


def _stages(stages: dict[str, Any], compared: int) -> list[str]:
    width = max([18, *map(len, stages)])
    lines = [f"{'stage':{width}}{'rows':>12}{'failed':>10}{'seconds':>12}"]
    lines += [
        f"{name:{width}}{stage['rows']:>12,}{stage['failed']:>10,}{stage['seconds']:>12,.1f}"
        for name, stage in stages.items()
    ]
    comparing = [stage for name, stage in stages.items() if name.startswith(EVALUATION) and name != ASPECTS]
    if any(stage["rows"] > compared for stage in comparing):
        lines.append(
            f"({EVALUATION}…: the {compared:,} images that are compared, and some others that the report shows)"
        )
    for name, stage in stages.items():  # missing in files of earlier versions: examples and tables
        found = Failures.from_json(stage.get("failures", {}), stage.get("examples"))
        lines += [f"  {name}: {line}" for line in found.lines()]
        lines += [f"  {name}: {table_place(table)}" for table in stage.get("tables", ())]
    return lines


def _cost(cost: dict[str, Any]) -> str:
    uncounted = f"; {cost[UNCOUNTED]:,} rows not counted: the server does not report them" if UNCOUNTED in cost else ""
    return (
        f"MLLM tokens: {cost['prompt_tokens']:,} in ({cost['cached_tokens']:,} of them from the prefix cache), "
        f"{cost['output_tokens']:,} out{uncounted}; {cost['seconds']:,.0f} s for these stages"
    )


def _costs(costs: dict[str, Any], stages: dict[str, Any]) -> list[str]:
    priced = bool(costs["prices"])
    images = f"{costs['images']:,} images"
    lines = [f"{'hours':18}{'naming':>12}{'training':>12}{images:>16}" + (f"{'US$':>12}" if priced else "")]
    few = False
    for name, cost in costs["methods"].items():
        started = 0 < cost.get("timed_images", 0) < FEWEST_TIMED  # missing in files of earlier versions
        few |= started
        rate = f"{'-':>16}" if started else f"{cost['inference_hours']:>16.3f}"
        hours = f"{cost['preparation_hours']:>12.3f}{cost['training_hours']:>12.3f}{rate}"
        usd = "-" if started else "unknown" if cost["usd"] is None else money(cost["usd"])
        lines.append(f"{METHOD_TITLES.get(name, name):18}{hours}" + (f"{usd:>12}" if priced else ""))
    if few:
        lines.append(
            f"(-: fewer than {FEWEST_TIMED:,} photos were timed; that is mostly start-up, so it says nothing of more)"
        )
    elif any(stage["rows"] < costs["images"] for stage in stages.values() if stage["rows"]):
        lines.append("(at the measured rates, which include starting workers: with few images that is most of it)")
    if not priced:
        return [*lines, "(for US$ give a price file: --evaluate.prices shipped)"]
    missing = sorted({what for cost in costs["methods"].values() for what in cost["unpriced"]})
    return [*lines, f"(prices: {costs['prices']}{'; unknown: ' if missing else ''}{', '.join(missing)})"]
