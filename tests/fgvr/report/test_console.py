from dataclasses import replace

import pytest
from sample_report import SCRIPT, results

from fgvr.report.console import results_table


def test_table():
    text = results_table(results().to_json())
    rows = {line[:18].strip(): line for line in reversed(text.splitlines())}
    assert rows["NeaR"].split() == ["NeaR", "68.0", "±", "2.0", "63.0", "65.5", "60.0", "±", "3.5", "41"]
    assert "540 images of split 'test', 36 classes" in text
    assert "all-MiniLM-L6-v2" in text
    assert rows["labels"].split() == ["labels", "360", "4", "41.0"]
    assert "Candidate sets:\n  candidate sets agree better with labels that they have not seen (on 100 of" in text
    assert "\n  true: labels 0.65 right, neighbourhoods 0.91 pure\n" in text
    assert "MLLM tokens: 13,900 in (0 of them from the prefix cache), 2,100 out; 141 s for these stages" in text
    assert max(map(len, text.splitlines())) <= 100


def test_without_truth():
    text = results_table(results(scored=False).to_json())
    assert "no true classes are known" in text
    assert "60.0%" in text
    assert "candidate sets agree better" in text
    assert "true: labels" not in text


def test_control_characters_do_not_reach_the_terminal():
    found = results()
    evil = found.to_json().replace('"labels"', '"lab\\u001b[2Jels"')
    assert "\x1b" not in results_table(evil)
    assert SCRIPT not in results_table(evil)  # no label stands in the table at all


def test_hours_and_money_with_what_is_unknown() -> None:
    lines = results_table(results().to_json()).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("hours "))
    assert lines[start].split() == ["hours", "naming", "training", "10,000", "images", "US$"]
    assert lines[start + 1].split() == ["MLLM", "0.000", "0.000", "17.500", "104"]
    assert lines[start + 2].split() == ["NeaR", "0.050", "0.600", "0.030", "unknown"]
    assert "include starting workers" in lines[start + 3]  # 360 images stand for 10,000
    assert lines[start + 4].startswith("(prices: 2026-01-01, a list; unknown: gpt-9, gpu_hour)")


def test_without_prices_there_are_hours_and_how_to_get_money() -> None:
    found = results()
    assert found.costs is not None
    lines = results_table(replace(found, costs=replace(found.costs, prices="")).to_json()).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("hours "))
    assert lines[start].split() == ["hours", "naming", "training", "10,000", "images"]
    assert lines[start + 1].split() == ["MLLM", "0.000", "0.000", "17.500"]
    assert "--evaluate.prices" in lines[start + 4]


@pytest.mark.parametrize(
    ("usd", "shown"),
    [
        (104.2, "104"),
        (0.1, "0.10"),
        (0.0341, "0.034"),
        (0.00052, "0.00052"),
        (2e-6, "0.0000020"),
        (0.0996, "0.10"),
        (0, "0.00"),
    ],
)
def test_small_amounts_of_money_are_not_zero(usd: float, shown: str) -> None:
    found = results()
    assert found.costs is not None
    methods = {name: replace(cost, usd=usd) for name, cost in found.costs.methods.items()}
    text = results_table(replace(found, costs=replace(found.costs, methods=methods)).to_json())
    (row,) = [line for line in text.splitlines() if line.startswith("MLLM ") and "17.500" in line]
    assert row.split()[4] == shown


def test_long_names_of_stages_and_images_that_are_only_shown() -> None:
    found = results()
    stages = [replace(found.stages[0], name="eval_label_prototypes", rows=564), *found.stages]
    lines = results_table(replace(found, stages=stages).to_json()).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("stage "))
    assert len({len(line) for line in lines[start : start + 3]}) == 1
    assert "(eval_…: the 540 images that are compared, and some others that the report shows)" in lines
    assert "(eval_" not in results_table(found.to_json())
