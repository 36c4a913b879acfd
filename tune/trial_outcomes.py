"""The results of a sweep: its ranked trials, a table of them, and the best one as a config."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fgvr.config import Config, to_yaml
from tune.spaces import EPOCH, Objective, with_values

BEST_FILE, TRIALS_FILE = "best.yaml", "trials.csv"


@dataclass(frozen=True)
class TrialOutcome:
    """The outcome of a trial.

    Attributes:
        trial_id: Ray Tune's id.
        values: values of the swept fields.
        score: the objective; None where nothing was measured.
        epochs: number of trained epochs.
        state: `finished`, `stopped early` (others were better), `failed` or `interrupted`.
        seconds: wall time.
        error: why it failed.
    """

    trial_id: str
    values: Mapping[str, Any]
    score: float | None
    epochs: int
    state: str
    seconds: float
    error: str = ""


def score_of(history: Sequence[Mapping[str, Any]], objective: Objective) -> float | None:
    """The objective from a trial's reports, oldest first: the last value, or the best."""
    scores = [float(report[objective.metric]) for report in history if report.get(objective.metric) is not None]
    scores = [score for score in scores if math.isfinite(score)]
    if not scores:
        return None
    return scores[-1] if objective.of == "last" else max(scores)


def epochs_of(history: Sequence[Mapping[str, Any]]) -> int:
    """Number of epochs in a trial's reports."""
    return max((int(report.get(EPOCH) or 0) for report in history), default=0)


def ranked(trials: Sequence[TrialOutcome]) -> list[TrialOutcome]:
    """Trials, best first: finished ones before those stopped early; interrupted and failed ones last.

    A score after a few epochs, however good, does not predict the score of a whole training run; so it wins only where
    no trial has trained to the end.
    """
    order = {"finished": 0, "stopped early": 1, "interrupted": 2, "failed": 3}

    def key(trial: TrialOutcome) -> tuple[float, ...]:
        usable = trial.score is not None and trial.state != "failed"
        return (not usable, order[trial.state], -(trial.score or 0.0), -trial.epochs)

    return sorted(trials, key=key)


def best_of(trials: Sequence[TrialOutcome]) -> TrialOutcome | None:
    """The first of `ranked`, if it has a score and did not fail."""
    first = ranked(trials)[:1]
    return first[0] if first and first[0].score is not None and first[0].state != "failed" else None


def best_yaml(config: Config, best: TrialOutcome, trials: Sequence[TrialOutcome], objective: Objective) -> str:
    """The complete config with the best values, for `--config`; a comment says how it was found."""
    done = sum(trial.state in ("finished", "stopped early") for trial in trials)
    lines = [
        f"Best of {done} trials: {objective.metric} = {best.score:.4f} after {best.epochs} epochs "
        f"(trial {best.trial_id}).",
        *_wrapped(f"{objective.metric}: {objective.meaning}"),
        "Swept: " + ", ".join(f"{field} = {_cell(value)}" for field, value in best.values.items()),
        "Use: python pipelines/full.py --config THIS_FILE",
    ]
    header = "".join(f"# {line}\n" for line in lines)
    return header + to_yaml(with_values(config, best.values))


def trials_csv(trials: Sequence[TrialOutcome], objective: Objective) -> str:
    """All trials, best first, with full precision."""
    fields = list(trials[0].values) if trials else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", objective.metric, "epochs", "seconds", *fields, "error"])
    for trial in ranked(trials):
        score = "" if trial.score is None else repr(trial.score)
        values = [trial.values.get(field, "") for field in fields]
        writer.writerow(
            [trial.trial_id, trial.state, score, trial.epochs, f"{trial.seconds:.1f}", *values, trial.error]
        )
    return text.getvalue()


def trials_text(trials: Sequence[TrialOutcome], objective: Objective) -> str:
    """All trials as text for a terminal, best first."""
    fields = list(trials[0].values) if trials else []
    rows = [[objective.metric, "epochs", "state", *fields, "seconds"]]
    for trial in ranked(trials):
        score = "-" if trial.score is None else f"{trial.score:.4f}"
        cells = [_cell(trial.values.get(field, "")) for field in fields]
        rows.append([score, str(trial.epochs), trial.state, *cells, f"{trial.seconds:.0f}"])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _wrapped(text: str, width: int = 110) -> list[str]:
    import textwrap

    return textwrap.wrap(" ".join(text.split()), width)
