import json

from sample_report import results

from fgvr.report.results import stage_remarks, stage_results
from fgvr.tables import Table


def test_keys_that_programs_read():
    facts = json.loads(results().to_json())
    assert facts["methods"]["near"]["sacc"] == 68.0
    assert facts["methods"]["near"]["sacc_model"] == "all-MiniLM-L6-v2"
    assert {"sacc", "cacc", "siou", "top1", "intervals", "unnamed"} <= facts["methods"]["makd"].keys()
    assert facts["stages"]["labels"] == {
        "seconds": 41.0,
        "rows": 360,
        "failed": 4,
        "failures": {"corrupt": 3, "refused": 1},
        "tokens": {"prompt_tokens": 13_000, "output_tokens": 2_000},
    }
    assert facts["cost"] == {
        "prompt_tokens": 13_900,
        "cached_tokens": 0,
        "output_tokens": 2_100,
        "seconds": 141.2,
        "evaluation": {"prompt_tokens": 900, "cached_tokens": 0, "output_tokens": 100, "seconds": 2.0},
    }


def test_without_truth_the_metrics_are_null():
    methods = json.loads(results(scored=False).to_json())["methods"]
    assert methods["near"]["sacc"] is None
    assert methods["near"]["unnamed"] == 3


def test_tables_of_one_stage_are_added_up():
    def table(seconds: float, rows: int, reason: str) -> Table:
        facts = {"metrics": {"prompt_tokens": 5.0, "accuracy": 0.5}}
        return Table(reason, "predictions", "f", rows, 1, 1, 9, seconds, failures={reason: 1}, extra=facts)

    first, second = table(1, 10, "corrupt"), table(2, 20, "not_found")
    (found,) = stage_results([first, second, first])  # asked for twice, it took its time once
    assert (found.seconds, found.rows, found.failed) == (3, 30, 2)
    assert found.failures == {"corrupt": 1, "not_found": 1}
    assert found.tokens == {"prompt_tokens": 10}


def test_remarks_of_stages_are_told_once_with_their_tables() -> None:
    def table(name: str, *remarks: str) -> Table:
        return Table(f"/{name}", name, "f", 1, 0, 1, 1, 0.0, extra={"remarks": list(remarks)} if remarks else {})

    found = stage_remarks([table("looks", "no seed", "no usage"), table("answers", "no seed"), table("labels")])
    assert found == ["answers, looks: no seed", "looks: no usage"]
