import dataclasses
import json

from sample_report import content, results

from fgvr.failures import Example
from fgvr.report.console import results_table
from fgvr.report.page import render
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


def test_failures_have_their_words_in_the_numbers_on_the_page_and_on_the_console():
    said = Example(4, "HTTP 400: <b>no</b> seed\x1b[2J", "/photos/a.png")
    other = Example(2, "gone", "/photos/b.png")

    def table(example: Example) -> Table:
        failures = {"request_rejected": 2}
        return Table(
            f"/run/{example.image_id}",
            "answers",
            "f",
            9,
            2,
            1,
            9,
            1.0,
            failures=failures,
            examples={"request_rejected": example},
        )

    (stage,) = stage_results([table(said), table(other)])
    assert stage.examples == {"request_rejected": other}  # the lower image id
    (alone,) = stage_results([table(said)])
    made = dataclasses.replace(results(), stages=[alone])
    facts = made.as_json()["stages"]["answers"]
    assert facts["examples"]["request_rejected"]["detail"].startswith("HTTP 400")
    assert list(facts["tables"]) == ["/run/4"]
    page = render(dataclasses.replace(content(), results=made))
    assert "image 4 (photos/a.png): HTTP 400: &lt;b&gt;no&lt;/b&gt; seed" in page
    assert "<code>/run/4</code>" in page
    assert "\x1b" not in page
    shown = results_table(made.to_json())
    assert "  answers: request_rejected (2), e.g. image 4 (photos/a.png): HTTP 400: <b>no</b> seed" in shown
    assert "  answers: table: /run/4 (column error)" in shown
