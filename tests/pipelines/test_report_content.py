"""What the report says about candidate sets, from the manifests of two stages."""

from dataclasses import asdict
from types import SimpleNamespace

import pytest

from fgvr.beliefs.guard import Verdict
from fgvr.candidates.agreement import Agreement
from fgvr.config import build
from fgvr.tables import Table
from pipelines.report_content import candidate_facts, learned_from, photo_facts

OLD = {"kind": "file", "name": "old", "path": "/answers/old.csv"}


def table(name, metrics, **extra):
    return Table(name, name, "f", 9, 0, 1, 9, 1.0, extra={"metrics": metrics, **extra})


@pytest.mark.parametrize(
    ("for_own", "for_sets", "helps", "expectation"),
    [
        (15, 45, True, "candidate sets agree better with labels that they have not seen"),
        (
            45,
            15,
            False,
            "held-out labels agree better with the own labels than with candidate sets: try candidates.method single",
        ),
        (30, 33, None, "unknown whether candidate sets help"),
    ],
)
def test_the_guards_verdict_and_the_truth(for_own, for_sets, helps, expectation):
    agreement = asdict(Agreement(0.5, 0.64, 0.93, (0.64, 0.5), 0.2))
    metrics = {"mean_candidates": 1.6, "coverage": 0.97, "true_candidate_accuracy": 0.9}
    metrics |= {"true_label_accuracy": 0.65, "true_neighbour_precision": 0.96}
    guard = asdict(Verdict(900, 100, for_own, for_sets))
    near = table("near", {"true_disambiguated_accuracy": 0.92})
    facts = candidate_facts(table("candidates", metrics, agreement=agreement, guard=guard), near)
    assert facts.expected_to_help is helps
    assert facts.expectation.startswith(expectation)
    known = "true: labels 0.65 right, neighbourhoods 0.96 pure; 0.92 of the names right after training on sets: "
    outcome = {True: "the verdict was right", False: "the verdict was wrong", None: ""}[helps]
    assert facts.truth == (known + outcome if outcome else known.partition(";")[0])
    assert (facts.label_accuracy, facts.neighbour_precision) == (0.64, 0.93)
    assert (facts.true_label_accuracy, facts.candidate_accuracy, facts.disambiguated_accuracy) == (0.65, 0.9, 0.92)


def test_tables_of_earlier_versions_were_not_compared():
    agreement = asdict(Agreement(0.5, 0.64, 0.93, (0.64, 0.6), 0.2))
    facts = candidate_facts(table("candidates", {"mean_candidates": 1.6}, agreement=agreement), table("near", {}))
    assert (facts.expected_to_help, facts.expectation) == (None, "candidate sets and own labels were not compared")
    assert (facts.truth, facts.coverage, facts.true_label_accuracy, facts.disambiguated_accuracy) == (
        "",
        None,
        None,
        None,
    )


def test_an_estimate_without_ground_is_not_told():
    agreement = asdict(Agreement(0.5, 0.29, 1.0, (0.29, 0.29), 0.2, images=60, names=34, once=23))
    metrics = {"mean_candidates": 1.6, "true_label_accuracy": 0.0, "true_neighbour_precision": 0.13}
    facts = candidate_facts(table("candidates", metrics, agreement=agreement), table("near", {}))
    assert (facts.label_accuracy, facts.neighbour_precision) == (None, None)
    assert facts.truth == "true: labels 0.00 right, neighbourhoods 0.13 pure"


def test_where_most_names_have_one_image_there_is_no_verdict_either():
    agreement = asdict(Agreement(0.5, 0.29, 1.0, (0.29, 0.29), 0.2, images=60, names=34, once=23))
    guard = asdict(Verdict(60, 20, 2, 12))
    facts = candidate_facts(table("candidates", {}, agreement=agreement, guard=guard), table("near", {}))
    assert facts.expected_to_help is None
    assert facts.expectation == "no verdict on candidate sets: 23 of 34 names have a single image"


def test_what_the_source_left_out_stands_beside_the_photos():
    left_out = {"ending": {".heic": 1200, ".txt": 1}, "excluded": {"@eaDir": 3}}
    assert photo_facts(table("samples", {}, splits={"train": 7, "test": 2}, left_out=left_out)) == [
        ("Photos", "9 (test 2, train 7)"),
        ("Left out", "1,201 files were left out by their ending: 1,200 .heic, 1 .txt (ingest.source.extensions)"),
        ("Left out", "3 files or folders were left out by their name: 3 @eaDir (ingest.source.exclude)"),
    ]
    assert photo_facts(table("samples", {}, splits={"train": 9})) == [("Photos", "9 (train 9)")]


@pytest.mark.parametrize(
    ("method", "label", "more", "said"),
    [
        ("zs_clip", {}, {}, ""),
        ("label_prototypes", {}, {}, "demo; random images"),
        ("heads", {"images": {"select": "medoids", "per_class": None}}, {}, "demo; medoids images"),
        ("heads", {}, {"heads": {"loss": "proden"}}, "demo; random images; candidate sets: single"),
        ("near", {"images": {"per_class": 3}}, {}, "demo; 3 images per true class; candidate sets: single"),
        ("near", {"sources": [OLD]}, {}, "old (old.csv); random images; candidate sets: single"),
        (
            "label_prototypes",
            {"sources": [OLD, {"kind": "ask", "name": "big"}], "combine": "reliability"},
            {},
            "old (old.csv) and big (demo) together; random images",
        ),
        ("makd", {}, {}, "NeaR's names, of demo; random images; candidate sets: single"),
        (
            "heads",
            {"checked": "checked.csv", "reask": 0.1},
            {},
            "demo; random images; some of them checked by a person; asked again about suspicious ones",
        ),
        ("base", {}, {}, "true classes"),
    ],
)
def test_each_row_says_whose_names_it_learned_from(method, label, more, said):
    tables = {
        "candidates": table("candidates", {}, used="single"),
        "makd": table("makd", {}, class_targets="near"),
        "base": table("base", {}, class_targets="true"),
    }
    run = SimpleNamespace(config=build({"label": label, **more}), table=tables.__getitem__)
    assert learned_from(run, method) == said
