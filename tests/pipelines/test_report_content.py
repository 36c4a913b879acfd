"""What the report says about candidate sets, from the manifests of two stages."""

from dataclasses import asdict

import pytest

from fgvr.candidates.agreement import Agreement
from fgvr.tables import Table
from pipelines.report_content import candidate_facts, photo_facts


def table(name, metrics, **extra):
    return Table(name, name, "f", 9, 0, 1, 9, 1.0, extra={"metrics": metrics, **extra})


@pytest.mark.parametrize(
    ("estimated", "true", "helps", "expectation", "truth"),
    [
        ((0.64, 0.93), (0.65, 0.96), True, "(0.93) purer than labels (0.64): candidate sets should help", "n holds"),
        ((0.91, 0.58), (0.95, 0.54), False, "(0.58) no purer than labels (0.91): candidate sets should not", "n holds"),
        (
            (0.29, 1.0),
            (0.0, 0.13),
            True,
            "(1.00) purer than labels (0.29): candidate sets should",
            "the estimate was wrong",
        ),
        ((0.74, 0.86), (0.80, 0.76), True, "(0.86) purer than labels (0.74): candidate sets should", "does not hold"),
    ],
)
def test_expectation_and_truth_in_both_regimes(estimated, true, helps, expectation, truth):
    agreement = asdict(Agreement(0.5, *estimated, (estimated[0], 0.5), 0.2))
    metrics = {"mean_candidates": 1.6, "coverage": 0.97, "true_candidate_accuracy": 0.9}
    metrics |= {"true_label_accuracy": true[0], "true_neighbour_precision": true[1]}
    near = table("near", {"true_disambiguated_accuracy": 0.92})
    facts = candidate_facts(table("candidates", metrics, agreement=agreement), near)
    assert facts.expected_to_help is helps
    assert expectation in facts.expectation
    assert facts.truth.endswith(truth)
    assert f"({true[1]:.2f})" in facts.truth
    assert (facts.true_label_accuracy, facts.candidate_accuracy, facts.disambiguated_accuracy) == (true[0], 0.9, 0.92)


def test_without_truth_only_the_estimate_is_told():
    agreement = asdict(Agreement(0.5, 0.64, 0.93, (0.64, 0.6), 0.2))
    facts = candidate_facts(table("candidates", {"mean_candidates": 1.6}, agreement=agreement), table("near", {}))
    assert facts.expectation.startswith("expected: neighbourhoods (0.93) purer")
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
    assert (facts.label_accuracy, facts.neighbour_precision, facts.expected_to_help) == (None, None, None)
    assert facts.expectation == (
        "no estimate of how noisy labels and neighbourhoods are: 1.8 images per name on average, at least 10 are needed"
    )
    assert facts.truth == "true: neighbourhoods (0.13) purer than labels (0.00)"


def test_nothing_estimated_is_said_to_be_so():
    facts = candidate_facts(table("candidates", {}, agreement=asdict(Agreement())), table("near", {}))
    assert facts.expected_to_help is None
    assert facts.expectation == "too few labels agree to tell how noisy labels and neighbourhoods are"


def test_what_the_source_left_out_stands_beside_the_photos():
    left_out = {"ending": {".heic": 1200, ".txt": 1}, "excluded": {"@eaDir": 3}}
    assert photo_facts(table("samples", {}, splits={"train": 7, "test": 2}, left_out=left_out)) == [
        ("Photos", "9 (test 2, train 7)"),
        ("Left out", "1,201 files were left out by their ending: 1,200 .heic, 1 .txt (ingest.source.extensions)"),
        ("Left out", "3 files or folders were left out by their name: 3 @eaDir (ingest.source.exclude)"),
    ]
    assert photo_facts(table("samples", {}, splits={"train": 9})) == [("Photos", "9 (train 9)")]
