"""Training: a plain PyTorch loop of fgvr on 1..n workers, resumed from its last checkpoint.

One worker is one Ray task. Several are started by Ray Train, which connects their processes and, where training is
elastic, changes their number. Its controller and further actors, each of which imports Ray, take longer than the whole
training of a small student, so one worker does without.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cluster import budget, lease, lending, session, stage_progress
from cluster.capacity import check_capacity, wanted
from cluster.checkpoints import KEPT, TrainResult, forget_other_checkpoints, last_checkpoint, new_session
from cluster.heartbeat import Heartbeats
from cluster.lease import Fence
from cluster.progress import training_shown
from cluster.stage_files import Plan
from cluster.stall import unless_stalled
from cluster.train_worker import Loop, OnReport, Session, TrainJob, run_in_group, run_solo
from fgvr import storage
from fgvr.config.base import TrainWorkers
from fgvr.config.run import Limits
from fgvr.errors import UserError, user_error_in

log = logging.getLogger(__name__)

Result = TypeVar("Result")

LOOK_SECONDS = "0.2"
"""Polling interval of Ray Train's controller where every report is passed on: it takes one report per poll, and its
default of two seconds made a hundred reports of a short trial take minutes."""
RESIZE_SECONDS = 60.0
"""Interval of checks whether an elastic training run may grow; each growth restarts from the last checkpoint."""


class TrainingGivenUp(UserError, RuntimeError):
    """The workers of a training run died more often than `workers.max_failures`; the message says why."""


class NoCheckpoint(RuntimeError):
    """A training run ended without a checkpoint."""


def train(
    loop: Loop,
    config: Any,
    *,
    name: str,
    folder: str,
    workers: TrainWorkers,
    field: str = "workers",
    title: str | None = None,
    epochs: float | None = None,
    callbacks: Sequence[Any] = (),
    fence: Fence | None = None,
    limits: Limits | None = None,
) -> TrainResult:
    """Run `loop(config, reporter)` on the workers; a second call with the same folder resumes from its checkpoint.

    Args:
        loop: a module-level function of fgvr.training.
        config: its argument; must pickle.
        name: name of the training run, a folder under `folder`.
        folder: where checkpoints go, local (shared by all nodes) or on an object store.
        workers: number of workers, and the resources of each.
        field: config field of the workers, for messages (near.workers).
        title: name of the training run on the console; None: `name`.
        epochs: epochs of the whole training run, for the remaining time.
        callbacks: callbacks of Ray Train that get every report (a sweep passes them on to Ray Tune); with several
            workers only.
        fence: fence of the run, in a process that does not own the run itself (a sweep's trial).
        limits: longest waits; None: those of the session. Required in a process that Ray started.

    Raises:
        SessionError: the workers can never start, because they need more than the cluster has.
        UserError: the loop met something that the user has to fix.
        RuntimeError: the loop failed more often than workers.max_failures; the message has the loop's error.
        TrainingGivenUp: likewise, where workers hung or ran out of memory.
        Stalled: no worker sent a heartbeat for too long.
        BudgetReached: `run.budget` is used up; training goes on from the last checkpoint.
        NoCheckpoint: it ended without a checkpoint.
        LeaseLost: another session has taken over the run.
    """
    check_capacity(field, workers)
    lending.make_room(workers)
    job = _job(loop, config, workers, title=title or name, folder=storage.join(folder, name), limits=limits)
    driver = _Driver(job, workers, field, _owner(folder, fence))
    Plan(training=name, epochs=epochs).write(folder)
    with job.heartbeats.kept(), training_shown(job.folder, job.title, epochs, told=stage_progress.current()):
        last = driver.alone() if workers.solo else driver.together(callbacks)
    if last is None:
        raise NoCheckpoint(f"training {name} ended without a checkpoint")
    return last


def train_here(
    loop: Loop,
    config: Any,
    *,
    name: str,
    folder: str,
    workers: TrainWorkers,
    on_report: OnReport,
    fence: Fence | None,
    limits: Limits,
) -> TrainResult:
    """Do the same as `train` in this process, which has the resources of the only worker: a sweep's trial.

    Args:
        loop: see `train`, like all that follow.
        config: its argument.
        name: name of the training run.
        folder: where checkpoints go.
        workers: number of threads, and whether there is a GPU.
        on_report: called with the metrics of every report.
        fence: fence of the run.
        limits: longest waits.

    Raises:
        NoCheckpoint: it ended without a checkpoint.
        LeaseLost: another session has taken over the run.
        Exception: whatever the loop raises. Of a hang or of memory that ran out, this process dies.
    """
    job = _job(loop, config, workers, title=name, folder=storage.join(folder, name), limits=limits)
    with job.heartbeats.kept():
        attempt = _begin(job.folder, _owner(folder, fence))
        last = run_solo(job, attempt, on_report) or attempt.start
    if last is None:
        raise NoCheckpoint(f"training {name} ended without a checkpoint")
    return last


def _job(loop: Loop, config: Any, workers: TrainWorkers, *, title: str, folder: str, limits: Limits | None) -> TrainJob:
    threads = max(1, int(workers.num_cpus))
    return TrainJob(loop, config, title, folder, threads, workers.use_gpu, limits or session.limits(), Heartbeats())


def _owner(folder: str, fence: Fence | None) -> Callable[[], None]:
    """Raises LeaseLost where another session has taken over the run."""
    return (lambda: lease.check(folder)) if fence is None else fence.check


def _begin(training: str, check_owner: Callable[[], None]) -> Session:
    """A new attempt at the training run in this folder, which continues from the last complete checkpoint."""
    check_owner()
    start = last_checkpoint(training)
    forget_other_checkpoints(training, start)
    return Session(storage.join(training, new_session(training)), start)


@dataclass(frozen=True)
class _Driver:
    """The driver's side of a training run.

    Attributes:
        job: what its workers do.
        workers: their number, and the resources of each.
        field: config field of the workers, for messages.
        check_owner: raises LeaseLost where another session has taken over the run.
    """

    job: TrainJob
    workers: TrainWorkers
    field: str
    check_owner: Callable[[], None]

    def alone(self) -> TrainResult | None:
        """Train on one worker, and on another one from the last checkpoint where it died."""
        from ray.exceptions import RayError

        failures = 0
        while True:
            attempt = _begin(self.job.folder, self.check_owner)
            self.job.heartbeats.forget()  # so that last words are those of this attempt
            try:
                return self._attempt(attempt) or attempt.start
            except RayError as error:
                if (mendable := user_error_in(error)) is not None:
                    raise mendable from error
                failures += 1
                if 0 <= self.workers.max_failures < failures:
                    raise self._given_up(error) from error
                log.warning(
                    "training %s failed (%s); another worker goes on from the last checkpoint (%s.max_failures = %d)",
                    *(self.job.title, self._reason(error), self.field, self.workers.max_failures),
                )

    def _attempt(self, attempt: Session) -> TrainResult | None:
        """One attempt, in a process of Ray's.

        On CPUs Ray may use a process again that has trained before, which has imported torch already; a GPU's memory is
        only free once the process is gone.
        """
        import ray

        options = {"num_cpus": self.workers.num_cpus, "num_gpus": 1 if self.workers.use_gpu else 0, "max_retries": 0}
        once = {"max_calls": 1} if self.workers.use_gpu else {}
        result = ray.remote(**options, **once)(run_solo).remote(self.job, attempt)
        try:
            kept: TrainResult | None = self._wait(lambda: ray.get(result))
        except BaseException:
            with suppress(Exception):  # it may have ended by itself; the error that ended the wait is the one to tell
                ray.cancel(result, force=True)
            raise
        return kept

    def together(self, callbacks: Sequence[Any]) -> TrainResult | None:
        """Train on several workers under Ray Train, which restarts them."""
        import ray.train
        from ray.train.torch import TorchConfig, TorchTrainer

        os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
        if callbacks:
            os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", LOOK_SECONDS)
        attempt = _begin(self.job.folder, self.check_owner)
        filesystem, path = storage.arrow_filesystem(self.job.folder)
        workers = self.workers
        trainer = TorchTrainer(
            run_in_group,
            train_loop_config={"job": self.job, "session": attempt, "every_report": bool(callbacks)},
            torch_config=TorchConfig(backend="nccl" if workers.use_gpu else "gloo"),
            scaling_config=ray.train.ScalingConfig(
                num_workers=_asked(workers),
                elastic_resize_monitor_interval_s=RESIZE_SECONDS,
                use_gpu=workers.use_gpu,
                resources_per_worker={"CPU": workers.num_cpus, **({"GPU": 1} if workers.use_gpu else {})},
            ),
            run_config=ray.train.RunConfig(
                name=Path(attempt.folder).name,
                storage_path=path,
                storage_filesystem=filesystem,
                failure_config=ray.train.FailureConfig(max_failures=workers.max_failures),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=KEPT),
                callbacks=list(callbacks) or None,
            ),
        )
        try:
            result = self._wait(trainer.fit)
        except ray.train.TrainingFailedError as error:
            raise self._given_up(error) from error
        if result.error is not None:
            raise RuntimeError(f"training {self.job.title} failed: {result.error}") from result.error
        if result.checkpoint is None:  # it had already reached its last epoch in an earlier session
            return attempt.start
        checkpoint = storage.join(attempt.folder, Path(result.checkpoint.path).name)
        return TrainResult(dict(result.metrics or {}), checkpoint)

    def _wait(self, work: Callable[[], Result]) -> Result:
        def waits_for() -> str:
            return f"training {self.job.title}: waiting for {self.workers.num_workers} {wanted(self.workers)}"

        def results() -> Iterator[Result]:
            yield work()

        (result,) = unless_stalled(
            results,
            self.job.heartbeats,
            minutes=self.job.limits.place_minutes,
            waits_for=waits_for,
            check=budget.check,
        )
        return result

    def _reason(self, error: BaseException) -> str:
        """Why an attempt failed, in one line: the worker's last words, else its exception's last line, else Ray's."""
        words = self.job.heartbeats.all_words()
        return words[-1] if words else str(error).strip().splitlines()[-1].strip()

    def _given_up(self, error: Exception) -> Exception:
        """What to raise when the workers have failed too often."""
        self.check_owner()  # they may have failed because another session owns their files now
        words = self.job.heartbeats.all_words()
        if not words:
            return RuntimeError(f"training {self.job.title} failed: {error}")
        return TrainingGivenUp(
            f"training {self.job.title}: workers died more often than {self.field}.max_failures = "
            f"{self.workers.max_failures} allows; the last one said: {words[-1]}. The same command goes on from the "
            "last checkpoint"
        )


def _asked(workers: TrainWorkers) -> int | tuple[int, int]:
    """Ray Train's two ways to request workers: a fixed number, or a range (elastic)."""
    return workers.num_workers if workers.min_workers is None else (workers.min_workers, workers.num_workers)
