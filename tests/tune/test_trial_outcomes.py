import csv
import io
import math

import yaml

from fgvr.config import build, load_config
from pipelines.command import PRESETS
from tune.spaces import Objective
from tune.trial_outcomes import TrialOutcome, best_of, best_yaml, epochs_of, ranked, score_of, trials_csv, trials_text

LAST = Objective("votes", "what is\n  counted", "last")
BEST = Objective("top1", "share of right ones", "best")


def trial(name, score, state="finished", epochs=10, **values):
    return TrialOutcome(name, values or {"near.lr": 0.123456789, "near.loss": "cc"}, score, epochs, state, 12.34)


def test_the_score_is_of_the_last_report_or_of_the_best():
    history = [{"votes": 0.2, "epoch": 1}, {"votes": 0.7, "epoch": 2.5}, {"votes": 0.5, "epoch": 4}]
    assert score_of(history, LAST) == 0.5
    assert score_of([{"top1": row["votes"]} for row in history], BEST) == 0.7
    assert epochs_of(history) == 4


def test_reports_without_a_number_do_not_count():
    assert score_of([], LAST) is None
    assert score_of([{"votes": math.nan}, {"epoch": 1}], LAST) is None
    assert score_of([{"votes": 0.3}, {"votes": math.nan}], LAST) == 0.3
    assert epochs_of([]) == 0


def test_whole_trainings_come_first_and_failures_last():
    trials = [
        trial("early", 0.9, "stopped early", epochs=3),
        trial("failed", 0.95, "failed"),
        trial("good", 0.6),
        trial("better", 0.7),
        trial("nothing", None),
        trial("cut", 0.8, "interrupted"),
    ]
    assert [found.trial_id for found in ranked(trials)] == ["better", "good", "early", "cut", "nothing", "failed"]
    assert best_of(trials).trial_id == "better"
    assert best_of(trials[:2]).trial_id == "early"
    assert best_of(trials[1:2]) is None
    assert best_of([]) is None


def test_best_yaml_is_the_whole_config_with_the_best_values(tmp_path):
    config = build({"run": {"name": "birds"}, "ingest": {"source": {"kind": "folder", "path": "s3://bucket/Vögel"}}})
    best = trial("b1", 0.75, **{"near.lr": 0.0123456789012345, "near.loss": "gce", "candidates.k": 8})
    text = best_yaml(config, best, [best, trial("x", None, "failed")], LAST)
    path = tmp_path / "best.yaml"
    path.write_text(text)
    read = load_config(["--config", str(path)], PRESETS)
    assert (read.near.lr, read.near.loss, read.candidates.k) == (0.0123456789012345, "gce", 8)
    assert read.run.name == "birds"
    assert read.ingest == config.ingest
    header = [line for line in text.splitlines() if line.startswith("#")]
    assert header[0] == "# Best of 1 trials: votes = 0.7500 after 10 epochs (trial b1)."
    assert "# votes: what is counted" in header
    assert any("near.loss = gce" in line for line in header)
    assert yaml.safe_load(text) == read.model_dump(mode="json")


def test_the_tables_hold_every_trial():
    trials = [
        trial("a", 0.5),
        trial("b", 0.25),
        TrialOutcome("c", trial("", 0).values, None, 0, "failed", 1, "why, so?"),
    ]
    rows = list(csv.DictReader(io.StringIO(trials_csv(trials, LAST))))
    assert [row["trial"] for row in rows] == ["a", "b", "c"]
    assert [row["votes"] for row in rows] == ["0.5", "0.25", ""]
    assert rows[0]["near.lr"] == "0.123456789"
    assert rows[2]["error"] == "why, so?"
    lines = trials_text(trials, LAST).splitlines()
    assert len(lines) == 4
    assert lines[1].split() == ["0.5000", "10", "finished", "0.1235", "cc", "12"]
    assert lines[3].split()[0] == "-"
