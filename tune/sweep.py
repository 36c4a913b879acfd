"""sweep: find the best values for prompt learning (near), for a head on stored vectors, or for the student (makd).

    python tune/sweep.py --stage near --trials 8
    python tune/sweep.py --stage heads --trials 20
    python tune/sweep.py --stage makd --trials 16 --config my.yaml --run.name birds --makd.epochs 40

In: the tables of a run; missing ones are computed first, and no model is asked the same twice. Out, in
runs/<run.name>/sweeps/<stage>/: best.yaml (the whole config with the best values, for pipelines/full.py --config) and
trials.csv; in MLflow one run per trial below the pipeline's run. After an interruption, the same command continues the
sweep. The objective uses no true label (near, heads) and no test split; see docs/tuning.md.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.run import UserError, run_main
from fgvr import storage
from fgvr.commands import as_called, program
from fgvr.config import Config, ConfigError
from fgvr.config.help import help_topic
from fgvr.config.load import help_page
from pipelines.command import PRESETS
from pipelines.run_tables import Run

if TYPE_CHECKING:
    from cluster.stage import RunContext
    from tune.spaces import StageSweep
    from tune.trial_outcomes import TrialOutcome

log = logging.getLogger(__name__)

TARGETS: dict[str, tuple[str, ...]] = {"near": ("near",), "heads": ("heads",), "makd": ("makd",)}
"""Tables that a sweep needs, for which models may have to be asked."""
SWEPT = ("candidates", "near", "heads", "makd")
"""Stages with fields that a sweep may vary, which `--help` lists."""


@dataclass(frozen=True)
class Options:
    """The options of the command line besides the config.

    Attributes:
        stage: the stage to sweep.
        trials: total number of trials.
        max_concurrent: trials at once; None: as many as fit.
        seed: seed of the search.
    """

    stage: str
    trials: int = 8
    max_concurrent: int | None = None
    seed: int = 0


def run(tables: Run, options: Options) -> list[TrialOutcome]:
    """Run the whole sweep; returns the outcomes of its trials, best first.

    Raises:
        UserError: all trials failed, or the sweep was interrupted.
    """
    from cluster import lease, lending
    from cluster.fingerprint import fingerprint_of
    from pipelines.estimate import tell_bill
    from tune.ray_search import Search, search
    from tune.room import find_room
    from tune.spaces import describe, start_of
    from tune.trial_outcomes import ranked
    from tune.trials import TrialPlan, TrialRuns

    context, stage = tables.context, options.stage
    part = "makd" if stage == "makd" else "near"  # a head has no workers of its own: its stage needs none
    workers = context.config.makd.workers if stage == "makd" else context.config.near.workers
    room = find_room(f"{part}.workers", workers, options.max_concurrent)
    log.info("sweep of %s: from the tables in %s; those that are missing are computed first", stage, context.folder)
    tell_bill(tables, TARGETS[stage])
    sweep = _sweep_of(tables, stage)
    space = sweep.space()
    start = start_of(context.config, space)
    decides = {
        **sweep.decides,
        "space": describe(space),
        "start": start,
        "trials": options.trials,
        "seed": options.seed,
    }
    fingerprint = fingerprint_of(f"sweep/{stage}", decides, sweep.inputs)
    folder = storage.join(context.folder, "sweeps", stage, fingerprint)
    log.info("sweep of %s: %d trials, %d at once, in %s", stage, options.trials, room.trials, folder)
    lease.check(folder)
    limits = context.config.cluster.limits
    trial_plan = TrialPlan(sweep.prepare(folder), folder, room.workers, limits, lease.fence_of(folder))
    how = Search(
        trials=options.trials,
        concurrent=room.trials,
        seed=options.seed,
        start=start,
        retry_failed=context.config.run.retry_failed,
    )
    runs = TrialRuns(stage, fingerprint, options.trials, sweep.epochs, sweep.objective)
    lending.release_idle()  # the number of trials assumes the whole cluster, and Ray Tune waits without a limit
    trials = search(trial_plan, how, runs)
    lease.check(folder)  # Ray Tune returns normally when its process gets a signal
    _finish(context, sweep, trials)
    unfinished = options.trials - sum(trial.state in ("finished", "stopped early", "failed") for trial in trials)
    if unfinished:
        raise UserError(f"{unfinished} trials of the sweep are not finished; the same command continues them")
    storage.remove(storage.join(folder, "trials"))  # checkpoints are needed only by interrupted trials
    return ranked(trials)


def _sweep_of(run: Run, stage: str) -> StageSweep:
    from tune.heads_sweep import HeadsSweep
    from tune.makd_sweep import MakdSweep
    from tune.near_sweep import NearSweep

    kinds: dict[str, Callable[[Run], StageSweep]] = {
        "near": NearSweep.of,
        "heads": HeadsSweep.of,
        "makd": MakdSweep.of,
    }
    return kinds[stage](run)


def _finish(context: RunContext, sweep: StageSweep, trials: Sequence[TrialOutcome]) -> None:
    """Write and show the results; raises UserError when there are none."""
    from tune.trial_outcomes import BEST_FILE, TRIALS_FILE, best_of, best_yaml, trials_csv, trials_text

    objective = sweep.objective
    place = storage.join(context.folder, "sweeps", sweep.stage)
    sys.stdout.write(trials_text(trials, objective))
    storage.write_bytes(storage.join(place, TRIALS_FILE), trials_csv(trials, objective).encode())
    best = best_of(trials)
    if best is None:
        raise UserError(_nothing_found(sweep.stage, trials))
    storage.write_bytes(storage.join(place, BEST_FILE), best_yaml(context.config, best, trials, objective).encode())
    for name in (BEST_FILE, TRIALS_FILE):
        context.tracker.log_file(storage.join(place, name), f"sweeps/{sweep.stage}")
    context.tracker.log_metrics({f"sweep.{sweep.stage}.{objective.metric}": best.score or 0.0})
    sys.stdout.write(f"\nbest values: {storage.join(place, BEST_FILE)}\n")


def _nothing_found(stage: str, trials: Sequence[TrialOutcome]) -> str:
    failed = [trial for trial in trials if trial.state == "failed"]
    if not failed or len(failed) < len(trials):
        return f"the sweep of {stage} was interrupted before anything was measured; the same command continues it"
    return (
        f"all {len(failed)} trials of {stage} failed, the first because of: {failed[0].error}\n"
        "Mend the cause and give the same command with --run.retry_failed true"
    )


def check(config: Config, options: Options) -> None:
    """Check what is known before anything starts; raises ConfigError."""
    from pipelines.preflight import check_tables
    from tune import makd_sweep

    if options.stage == "makd":
        makd_sweep.check(config)
    if options.stage == "heads" and config.heads.learns_from_sets:
        raise ConfigError(
            f"heads.loss = {config.heads.loss}: a sweep holds images out, and candidate sets would have to be made "
            "without them. Set it to gce, ce, balanced or seesaw"
        )
    check_tables(config, TARGETS[options.stage])


def _plan(config: Config, options: Options) -> str:
    from pipelines.estimate import plan

    return plan(config, TARGETS[options.stage])


def parse(argv: Sequence[str]) -> tuple[Options, list[str]]:
    """The sweep's own flags, and the remaining ones for the config."""
    parser = argparse.ArgumentParser(
        prog=program() or "python tune/sweep.py",
        description=as_called(__doc__ or ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument("--stage", choices=sorted(TARGETS), required=True, help="stage to sweep")
    parser.add_argument("--trials", type=_count, default=8, help="training runs in total (default: %(default)s)")
    parser.add_argument(
        "--max-concurrent", type=_count, help="training runs at the same time (default: as many as fit)"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed of the search (default: %(default)s)")
    parser.add_argument("-h", "--help", action="store_true", help="this page; see --help TOPIC below")
    if (topic := help_topic(argv)) is not None:
        try:
            page = help_page(argv, topic, PRESETS, "Further flags, as of every script:", tuned=SWEPT)
        except ConfigError as error:
            parser.error(str(error))
        sys.stdout.write(page if topic else f"{parser.format_help()}\n{page}")
        raise SystemExit(0)
    found, rest = parser.parse_known_args(argv)
    return Options(found.stage, found.trials, found.max_concurrent, found.seed), rest


def _count(text: str) -> int:
    """A number of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}: at least 1")
    return number


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    options, rest = parse(sys.argv[1:] if argv is None else argv)
    run_main(
        __doc__,
        PRESETS,
        lambda context: run(Run(context), options),
        check=lambda config: check(config, options),
        plan=lambda config: _plan(config, options),
        argv=rest,
    )


if __name__ == "__main__":
    main()
