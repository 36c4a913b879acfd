"""The search in Ray Tune: Optuna proposes values, ASHA stops trials that are behind, a killed sweep can be resumed."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.search.optuna import OptunaSearch

from fgvr import storage
from fgvr.errors import UserError
from tune.early_stop import TRIALS, MarkingAsha
from tune.room import trial_resources
from tune.spaces import EPOCH, Objective
from tune.trial_outcomes import TrialOutcome, epochs_of, score_of
from tune.trials import REFUSED_FILE, TrialPlan, TrialRuns, cause, restarts, run_trial

log = logging.getLogger(__name__)

NAME = "tune"  # Ray's folder inside the sweep's folder
STARTED_FILE = "started.json"
REDUCTION = 3  # a third of the trials continues after each of ASHA's rungs
GRACE_SHARE = 6  # no trial is stopped in the first sixth of its epochs: low rates start slowly


@dataclass(frozen=True)
class Search:
    """The settings of the search.

    Attributes:
        trials: total number of trials.
        concurrent: number of trials at once.
        seed: seed of the proposals; with several trials at once, their order matters, too.
        start: values of the first trial, which are those of the config.
        retry_failed: whether to retry failed trials of an earlier session.
    """

    trials: int
    concurrent: int
    seed: int
    start: Mapping[str, Any]
    retry_failed: bool = False


def search(plan: TrialPlan, how: Search, runs: TrialRuns) -> list[TrialOutcome]:
    """Run the missing trials of the sweep in `plan.folder`, and return the outcomes of all.

    Raises:
        UserError: the sweep of an earlier session in the folder cannot be continued.
    """
    _quiet()
    tuner = _restored(plan, how) or _fresh(plan, how, runs)
    tuner.fit()
    filesystem, path = storage.arrow_filesystem(storage.join(plan.folder, NAME))
    record = tune.ExperimentAnalysis(path, storage_filesystem=filesystem)
    return outcomes(record, plan.sweep.objective, plan.sweep.epochs)


def _quiet() -> None:
    """Keep Tune's tables and step times off the console, since the sweep prints its own progress."""
    import optuna

    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new output prints a box whatever `verbose` says
    logging.getLogger("ray.tune.utils.util").setLevel(logging.ERROR)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # A continued trial reports some epochs twice.
    warnings.filterwarnings("ignore", message="The reported value is ignored")


def _trainable(plan: TrialPlan) -> Any:
    return tune.with_resources(tune.with_parameters(run_trial, plan=plan), trial_resources(plan.workers))


def _fresh(plan: TrialPlan, how: Search, runs: TrialRuns) -> tune.Tuner:
    import optuna

    objective = plan.sweep.objective
    storage.write_bytes(storage.join(plan.folder, STARTED_FILE), json.dumps({"concurrent": how.concurrent}).encode())
    filesystem, path = storage.arrow_filesystem(plan.folder)
    # Optuna's default of ten random trials would use up a small sweep. The constant liar makes trials that run at the
    # same time try different values.
    sampler = optuna.samplers.TPESampler(
        seed=how.seed, n_startup_trials=max(2, min(10, how.trials // 3)), constant_liar=how.concurrent > 1
    )
    return tune.Tuner(
        _trainable(plan),
        param_space=plan.sweep.space(),
        tune_config=tune.TuneConfig(
            metric=objective.metric,
            mode="max",
            num_samples=how.trials,
            max_concurrent_trials=how.concurrent,
            search_alg=OptunaSearch(sampler=sampler, points_to_evaluate=[dict(how.start)]),
            scheduler=_asha(plan),
            trial_dirname_creator=_folder_name,
        ),
        run_config=tune.RunConfig(
            name=NAME,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=tune.FailureConfig(max_failures=restarts(plan.workers) if plan.workers.solo else 0),
            callbacks=[runs],
            verbose=0,
        ),
    )


def _asha(plan: TrialPlan) -> MarkingAsha:
    epochs = plan.sweep.epochs
    return MarkingAsha(
        plan.folder,
        time_attr=EPOCH,
        max_t=epochs,
        grace_period=max(1, epochs // GRACE_SHARE),
        reduction_factor=REDUCTION,
        stop_last_trials=False,  # they end by themselves; if True, a late report would also count at early rungs
    )


def _folder_name(trial: Trial) -> str:
    return str(trial.trial_id)  # the default name contains all values


def _restored(plan: TrialPlan, how: Search) -> tune.Tuner | None:
    """The search of an earlier session, if it got far enough to be continued."""
    record = storage.join(plan.folder, NAME)
    if not any(name.startswith("experiment_state") for name in storage.list_files(record)):
        storage.remove(record)  # killed before its first record: nothing to continue
        return None
    filesystem, path = storage.arrow_filesystem(record)
    log.info("%s: continuing the sweep in %s", plan.sweep.stage, plan.folder)
    before = json.loads(storage.read_bytes(storage.join(plan.folder, STARTED_FILE)))["concurrent"]
    if before > how.concurrent:  # Ray continues with as many as before: they would wait for cores for ever
        raise UserError(
            f"the sweep in {plan.folder} was started with {before} trials at once, and there is room for "
            f"{how.concurrent} now. Continue it where it was started, or remove that folder to start it afresh"
        )
    if how.retry_failed:
        trials = storage.join(plan.folder, TRIALS)
        for name in storage.list_entries(trials)[1]:
            storage.remove(storage.join(trials, name, REFUSED_FILE))
    try:
        return tune.Tuner.restore(
            path, _trainable(plan), storage_filesystem=filesystem, restart_errored=how.retry_failed
        )
    except (ValueError, OSError, EOFError, AttributeError, ImportError) as error:  # from unpickling a truncated file
        raise UserError(
            f"the sweep in {plan.folder} cannot be continued: {error}. Remove that folder to start it afresh"
        ) from error


def outcomes(record: tune.ExperimentAnalysis, objective: Objective, epochs: int) -> list[TrialOutcome]:
    """The outcomes of the trials, from Ray's record."""
    return [_outcome(trial, record.trial_dataframes.get(trial.trial_id), objective, epochs) for trial in record.trials]


def _outcome(trial: Trial, reports: Any, objective: Objective, epochs: int) -> TrialOutcome:
    """`reports`: Ray's data frame with one row per report; None without reports."""
    history = [] if reports is None else reports.to_dict("records")
    done = epochs_of(history)
    if trial.status == Trial.ERROR:
        state = "failed"
    elif trial.status != Trial.TERMINATED:
        state = "interrupted"
    else:
        state = "finished" if done >= epochs else "stopped early"
    return TrialOutcome(
        trial_id=trial.trial_id,
        values=dict(trial.config),
        score=score_of(history, objective),
        epochs=done,
        state=state,
        seconds=float(trial.last_result.get("time_total_s") or 0.0),
        error=cause(trial) if state == "failed" else "",
    )
