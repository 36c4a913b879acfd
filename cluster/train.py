"""Training under Ray Train: a plain PyTorch loop of fgvr on 1..n workers, resumed from its last checkpoint.

Every session writes to a folder of its own, and continues from the folder of the session before:

    training/progress.json                        latest metrics, for the driver
    training/000001-5d0c7a91/checkpoint_…/        of the first session; Ray Train keeps the last two
    training/000001-5d0c7a91/latest.json          which checkpoint is the last complete one
    training/000002-88e1b1f3/…                    of the second

So a session that is wrongly taken for dead, and whose Ray deletes old checkpoints, never touches those of another
session. And Ray's own record of checkpoints, which only the same version of Ray can read, is not used.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import budget, lease, lending, session, stage_progress
from cluster.capacity import check_capacity, wanted
from cluster.heartbeat import Heartbeats
from cluster.lease import Fence
from cluster.progress import ProgressWriter, training_shown
from cluster.stage_files import Plan
from cluster.stall import unless_stalled
from cluster.watchdog import Watchdog, is_out_of_memory
from fgvr import liveness, storage
from fgvr.config.base import TrainWorkers
from fgvr.config.run import Limits
from fgvr.errors import UserError
from fgvr.training.reporter import Reporter

Loop = Callable[[Any, Reporter], object]
LOOK_SECONDS = "0.2"
"""Polling interval of Ray's controller where every report is passed on: it takes one report per poll, and its default
of two seconds made a hundred reports of a short trial take minutes."""
RESIZE_SECONDS = 60.0
"""Interval of checks whether an elastic training run may grow; each growth restarts from the last checkpoint."""


LATEST = "latest.json"
OF_RAY = "checkpoint_manager_snapshot.json"
"""Ray's own record, from which runs of earlier versions are continued."""
_SESSION = re.compile(r"(\d{6,})-[0-9a-f]{8}")


@dataclass(frozen=True)
class TrainResult:
    """The result of a training run: the folder of its last complete checkpoint, and the metrics reported with it."""

    metrics: dict[str, float]
    checkpoint: str


class TrainingGivenUp(UserError, RuntimeError):
    """The workers of a training run died more often than `workers.max_failures`; the message says why."""


class NoCheckpoint(RuntimeError):
    """A training run ended without a checkpoint."""


class RayReporter:
    """The loop's view of Ray Train; see fgvr.training.reporter.Reporter."""

    def __init__(self, folder: str, session: str, start: str | None, *, every_report: bool) -> None:
        """Set the folder for progress, the folder of this session, and the checkpoint to start from, if any."""
        import ray.train
        import ray.train.torch

        context = ray.train.get_context()
        self.rank = int(context.get_world_rank())
        self.world_size = int(context.get_world_size())
        self.device = ray.train.torch.get_device()
        self.progress = ProgressWriter(folder)
        self.session, self.start = session, start
        self.every_report = every_report
        self._resumed: Path | None = None

    def resume_folder(self) -> Path | None:
        """The last checkpoint of an interrupted training run as a local folder: the original, or a cached copy."""
        import ray.train

        own = ray.train.get_checkpoint()
        last = self.start if own is None else storage.join(self.session, Path(own.path).name)
        self._resumed = None if last is None else storage.fetch_folder(last)
        return self._resumed

    def end(self) -> None:
        """Release the cached copy of the checkpoint from which training resumed."""
        if self._resumed is not None:
            storage.forget_folder(self._resumed)

    def report(self, metrics: dict[str, float], save: Callable[[Path], None] | None = None) -> None:
        """Report on all ranks (a barrier); rank 0 keeps what `save` writes as a checkpoint.

        Ray gets only reports with checkpoints, unless every report is needed: its controller takes one report per poll,
        every two seconds, which is longer than an epoch of a small training run.
        """
        import ray.train

        liveness.beat()
        if self.rank == 0:
            self.progress.write(metrics)
        if save is None and not self.every_report:
            return
        if save is None or self.rank != 0:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as temporary:
            save(Path(temporary))
            name, checkpoint = new_checkpoint(), ray.train.Checkpoint.from_directory(temporary)
            ray.train.report(metrics, checkpoint=checkpoint, checkpoint_dir_name=name)
        note_checkpoint(self.session, name, metrics)


def _worker(job: dict[str, Any]) -> None:
    import torch

    torch.set_num_threads(job["threads"])
    limits: Limits = job["limits"]
    watchdog = Watchdog(job["heartbeats"])
    reporter = RayReporter(job["folder"], job["session"], job["start"], every_report=job["every_report"])
    what = f"training {job['name']}, worker {reporter.rank}"
    try:
        with watchdog.over(what, limits.silent_minutes, "cluster.limits.silent_minutes"):
            job["loop"](job["config"], reporter)
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            job["heartbeats"].last_words(f"{what}: out of memory ({type(error).__name__}: {error})")
        raise
    finally:
        reporter.end()


def _asked(workers: TrainWorkers) -> int | tuple[int, int]:
    """Ray Train's two ways to request workers: a fixed number, or a range (elastic)."""
    return workers.num_workers if workers.min_workers is None else (workers.min_workers, workers.num_workers)


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
        callbacks: callbacks of Ray Train that get every report (a sweep passes them on to Ray Tune).
        fence: fence of the run, in a process that does not own the run itself (a sweep's trial).
        limits: longest waits; None: those of the session. Required in a process that Ray started.

    Raises:
        SessionError: the workers can never start, because they need more than the cluster has.
        RuntimeError: the loop failed more often than workers.max_failures; the message has the loop's error.
        TrainingGivenUp: likewise, where workers hung or ran out of memory.
        Stalled: no worker sent a heartbeat for too long.
        BudgetReached: `run.budget` is used up; training goes on from the last checkpoint.
        NoCheckpoint: it ended without a checkpoint.
        LeaseLost: another session has taken over the run.
    """
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    check_capacity(field, workers)
    lending.make_room(workers)
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    if callbacks:
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", LOOK_SECONDS)
    check_owner: Callable[[str], None] = lease.check if fence is None else lambda _: fence.check()
    training = storage.join(folder, name)
    check_owner(folder)
    start = last_checkpoint(training)
    forget_other_checkpoints(training, start)
    own = new_session(training)
    filesystem, path = storage.arrow_filesystem(training)
    threads = max(1, int(workers.num_cpus))
    limits, heartbeats = limits or session.limits(), Heartbeats()
    trainer = TorchTrainer(
        _worker,
        train_loop_config={
            "loop": loop,
            "config": config,
            "threads": threads,
            "folder": training,
            "session": storage.join(training, own),
            "start": None if start is None else start.checkpoint,
            "every_report": bool(callbacks),
            "name": title or name,
            "limits": limits,
            "heartbeats": heartbeats,
        },
        torch_config=TorchConfig(backend="nccl" if workers.use_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=_asked(workers),
            elastic_resize_monitor_interval_s=RESIZE_SECONDS,
            use_gpu=workers.use_gpu,
            resources_per_worker={"CPU": workers.num_cpus, **({"GPU": 1} if workers.use_gpu else {})},
        ),
        run_config=ray.train.RunConfig(
            name=own,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=workers.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            callbacks=list(callbacks) or None,
        ),
    )
    Plan(training=name, epochs=epochs).write(folder)

    def waits_for() -> str:
        return f"training {title or name}: waiting for {workers.num_workers} {wanted(workers)}"

    def results() -> Iterator[ray.train.Result]:
        yield trainer.fit()

    with heartbeats.kept():
        try:
            with training_shown(training, title or name, epochs, told=stage_progress.current()):
                (result,) = unless_stalled(
                    results, heartbeats, minutes=limits.place_minutes, waits_for=waits_for, check=budget.check
                )
        except ray.train.TrainingFailedError as error:
            check_owner(folder)  # it may have failed because another session owns its files now
            words = heartbeats.all_words()
            if words:
                raise TrainingGivenUp(
                    f"training {title or name}: workers died more often than {field}.max_failures = "
                    f"{workers.max_failures} allows; the last one said: {words[-1]}. The same command goes on from the "
                    "last checkpoint"
                ) from error
            raise RuntimeError(f"training {name} failed: {error}") from error
    if result.error is not None:
        raise RuntimeError(f"training {name} failed: {result.error}") from result.error
    if result.checkpoint is not None:
        return TrainResult(dict(result.metrics or {}), storage.join(training, own, Path(result.checkpoint.path).name))
    if start is not None:  # it had already reached its last epoch in an earlier session
        return start
    raise NoCheckpoint(f"training {name} ended without a checkpoint")


def new_session(training: str) -> str:
    """A unique name for a session's folder inside `training`."""
    last = max(map(_number, _sessions(training)), default=0)
    return f"{last + 1:06d}-{uuid.uuid4().hex[:8]}"


def new_checkpoint() -> str:
    """A name for a checkpoint's folder."""
    return f"checkpoint_{uuid.uuid4().hex[:12]}"


def note_checkpoint(session: str, name: str, metrics: Mapping[str, float]) -> None:
    """Record that this checkpoint of the session is complete and is the latest."""
    kept = {"folder": name, "metrics": dict(metrics)}
    storage.write_bytes(storage.join(session, LATEST), json.dumps(kept).encode())


def last_checkpoint(training: str) -> TrainResult | None:
    """The last complete checkpoint of the last session that left one; None where there is none."""
    for name in sorted(_sessions(training), key=_number, reverse=True):
        session = storage.join(training, name)
        try:
            facts = json.loads(storage.read_bytes(storage.join(session, LATEST)))
        except FileNotFoundError:
            continue
        return TrainResult(facts["metrics"], storage.join(session, facts["folder"]))
    return _of_ray(training)


def forget_other_checkpoints(training: str, kept: TrainResult | None) -> None:
    """Remove what earlier sessions left in `training`, except `kept` and the folder of its session."""
    stays = "" if kept is None else kept.checkpoint.removeprefix(training.rstrip("/")).strip("/").partition("/")[0]
    files, folders = storage.list_entries(training)
    for name in [*folders, *(name for name in files if name == OF_RAY)]:
        if name != stays:
            storage.remove(storage.join(training, name))


def _sessions(training: str) -> list[str]:
    return [name for name in storage.list_entries(training)[1] if _SESSION.fullmatch(name)]


def _number(session: str) -> int:
    return int(session.partition("-")[0])


def _of_ray(training: str) -> TrainResult | None:
    """The last checkpoint of an earlier version, whose sessions all wrote to `training` itself."""
    try:
        last = json.loads(storage.read_bytes(storage.join(training, OF_RAY)))["latest_checkpoint_result"]
    except FileNotFoundError:
        return None
    return None if last is None else TrainResult(last["metrics"], storage.join(training, last["checkpoint_dir_name"]))
