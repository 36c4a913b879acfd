"""status: show the progress of a run, its failures, and the command that continues it. Only reads the run's files.

python pipelines/status.py runs/demo
python pipelines/status.py s3://bucket/runs/mine --json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

from cluster.progress import duration
from cluster.run_status import FINISHED, RUNNING, RunStatus, StageStatus, run_status
from fgvr.commands import as_called, program
from fgvr.errors import UserError
from fgvr.failures import Failures, table_place
from fgvr.redact import MASK, masked_tree, safe
from fgvr.sources.omissions import sentences


def as_json(status: RunStatus) -> str:
    """The full status, for programs."""
    facts = asdict(status) | {"by_config": status.by_config}
    return json.dumps(masked_tree(facts), indent=1) + "\n"


def as_text(status: RunStatus) -> str:
    """The status as text for a terminal of 100 columns."""
    lines = [_headline(status), ""]
    lines += [f"{'stage':26}{'state':10}{'rows':>36}{'failed':>10}{'time':>14}"]
    lines += [_line(stage) for stage in status.stages]
    for stage in status.stages:
        if stage.failures:
            counts = ", ".join(f"{reason} {count:,}" for reason, count in sorted(stage.failures.items()))
            lines.append(f"failures of {stage.name}: {'about ' if stage.estimated else ''}{counts}")
            lines += [f"  {line}" for line in Failures(Counter(stage.failures), stage.examples).lines()]
            lines.append(f"  {table_place(stage.table)}")
        lines += [f"{stage.name}: {said}" for said in (*sentences(stage.left_out).values(), *stage.remarks)]
    if status.others:
        lines.append(f"{status.others} more tables of other settings are in this folder")
    return safe("\n".join([*lines, *_what_next(status)]) + "\n")


def _headline(status: RunStatus) -> str:
    session = status.session
    text = f"{status.folder}: {status.state}"
    if session is None:
        return f"{text}; {f'owned by {status.owner}' if status.owner else 'its sessions left no record'}"
    started = datetime.fromtimestamp(session.started).astimezone()
    text += f"; begun {started:%Y-%m-%d %H:%M %Z} on {session.host} (process {session.pid}), {_last_sign(status)}"
    if status.waiting is not None:
        text += f"\nwaiting until this is certain: {status.waiting}"
    return f"{text}\n{session.message}" if session.message and status.state != RUNNING else text


def _last_sign(status: RunStatus) -> str:
    if status.owner is None or status.owner.process.is_within_sight:
        return f"last heartbeat {duration(status.silent or 0.0)} ago"
    if status.silent is None:
        return "a heartbeat was just seen" if status.state == RUNNING else "it recorded that it ended"
    return f"no heartbeat in {duration(status.silent)} of watching"


def _line(stage: StageStatus) -> str:
    if stage.training:
        whole = "" if stage.epochs is None else f" of {stage.epochs:g}"
        rows = f"epoch {stage.training.get('epoch', 0):.4g}{whole}"
        rows += f", loss {stage.training['loss']:.3g}" if "loss" in stage.training else ""
    elif stage.rows_wanted is None:
        rows = ""
    elif stage.state == FINISHED:
        rows = f"{stage.rows:,}"
    else:
        share = stage.rows / stage.rows_wanted if stage.rows_wanted else 1.0
        rows = f"{stage.rows:,} of {stage.rows_wanted:,} ({100 * share:.1f}%)"
    failed = f"{'~' if stage.estimated else ''}{stage.failed:,}" if stage.rows_wanted is not None else ""
    return f"{stage.name:26}{stage.state:10}{rows:>36}{failed:>10}{duration(stage.seconds):>14}"


def _what_next(status: RunStatus) -> list[str]:
    lines = []
    if status.session is not None and status.session.metrics and status.state == RUNNING:
        lines.append(f"metrics: {status.session.metrics}")
    if status.command is None:
        return [*lines, "", "The command that started this run is not recorded; give it again to go on."]
    if status.state == FINISHED:
        lines += ["", "Nothing is left to do. The command that made this run:"]
    elif status.state == RUNNING:
        lines += ["", "If it stops before it is done, this command goes on from there:"]
    else:
        lines += ["", "This command goes on from there:"]
    lines.append(f"  {status.command}")
    if MASK in status.command:
        lines.append(f"  ({MASK} stands for a secret that is not kept: put it in)")
    if status.by_config is not None and status.state != FINISHED:
        lines += [
            "Or, if a config file has changed since, with the settings as they were:",
            f"  {status.by_config}",
        ]
    if any(stage.failures for stage in status.stages):
        lines.append("Failed rows are tried again with --run.retry_failed true")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns 2 where there is no run, as for a wrong argument, and 130 for Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog=program(), description=as_called(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="the run's folder, a path or an URL")
    parser.add_argument("--json", action="store_true", help="everything, for programs")
    options = parser.parse_args(argv)
    try:
        status = run_status(options.run)
    except UserError as error:
        sys.stderr.write(safe(f"status: {error}\n"))
        return 2
    except KeyboardInterrupt:
        return 130
    sys.stdout.write(as_json(status) if options.json else as_text(status))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
