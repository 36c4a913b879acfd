"""Training under Ray Train: a plain PyTorch loop of fgvr on 1..n workers, resumed from its last checkpoint.

Every session writes into a folder of its own, and goes on from the last one's:

    training/progress.json                        last metrics, for whoever looks
    training/000001-5d0c7a91/checkpoint_…/        of the first session, as Ray Train keeps them: the last two
    training/000001-5d0c7a91/latest.json          which one is the last that is whole
    training/000002-88e1b1f3/…                    of the second

So a session that was taken for dead and is not, whose Ray deletes what it takes for old, never meets another one's
checkpoints; and what Ray writes about them in its own form, which only the same version of Ray reads, decides nothing.
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

from cluster import lease, lending, session, stage_progress
from cluster.capacity import check_capacity, wanted
from cluster.lease import Fence
from cluster.progress import ProgressWriter, training_shown
from cluster.signs import Signs
from cluster.stage_files import Plan
from cluster.waiting import patiently
from cluster.watchdog import Watchdog, is_out_of_memory
from fgvr import liveness, storage
from fgvr.config.base import TrainWorkers
from fgvr.config.run import Limits
from fgvr.errors import UserError
from fgvr.training.reporter import Reporter

Loop = Callable[[Any, Reporter], object]
LOOK_SECONDS = "0.2"
"""Between two looks of Ray's controller for reports, where each is handed on: it takes one at a look, and by itself
looks every two seconds, so that a hundred reports of a short trial took minutes."""
RESIZE_SECONDS = 60.0
"""Between two looks whether an elastic training may grow; each growth starts again from the last checkpoint."""


LATEST = "latest.json"
OF_RAY = "checkpoint_manager_snapshot.json"
"""Ray's own record, of which runs of earlier versions are continued."""
_SESSION = re.compile(r"(\d{6,})-[0-9a-f]{8}")


@dataclass(frozen=True)
class TrainResult:
    """What a training left: its last checkpoint that is whole, a folder, and the metrics that were reported with it."""

    metrics: dict[str, float]
    checkpoint: str


class TrainingGivenUp(UserError, RuntimeError):
    """A training's workers died more often than `workers.max_failures`, and said why."""


class NoCheckpoint(RuntimeError):
    """A training ended without leaving a checkpoint."""


class RayReporter:
    """The loop's view of Ray Train; see fgvr.training.reporter.Reporter."""

    def __init__(self, folder: str, session: str, start: str | None, *, every_report: bool) -> None:
        """Where the training's progress goes, the session's own folder, and another one's checkpoint to begin with."""
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
        """The last checkpoint of an interrupted training, as a local folder: that itself, or a copy in the cache."""
        import ray.train

        own = ray.train.get_checkpoint()
        last = self.start if own is None else storage.join(self.session, Path(own.path).name)
        self._resumed = None if last is None else storage.fetch_folder(last)
        return self._resumed

    def end(self) -> None:
        """Give back the copy of the checkpoint that the training went on from."""
        if self._resumed is not None:
            storage.forget_folder(self._resumed)

    def report(self, metrics: dict[str, float], save: Callable[[Path], None] | None = None) -> None:
        """Report on all ranks (a barrier); rank 0 keeps what `save` writes as a checkpoint.

        Ray hears of checkpoints only, unless somebody listens to every report: its controller takes one report at a
        time and looks every two seconds, which is more than an epoch of a small training.
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
    watchdog = Watchdog(job["signs"])
    reporter = RayReporter(job["folder"], job["session"], job["start"], every_report=job["every_report"])
    what = f"training {job['name']}, worker {reporter.rank}"
    try:
        with watchdog.over(what, limits.silent_minutes, "cluster.limits.silent_minutes"):
            job["loop"](job["config"], reporter)
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            job["signs"].last_words(f"{what}: out of memory ({type(error).__name__}: {error})")
        raise
    finally:
        reporter.end()


def _asked(workers: TrainWorkers) -> int | tuple[int, int]:
    """Ray Train's two ways to ask for workers: so many, or between two numbers (elastic)."""
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
    """Run `loop(config, reporter)` on the workers; a second call with the same folder continues from its checkpoint.

    Args:
        loop: a module-level function of fgvr.training.
        config: its argument; must pickle.
        name: of the training, a folder under `folder`.
        folder: where checkpoints go, local (shared by all nodes) or an object store.
        workers: how many, and what each reserves.
        field: where the config has them, for messages (near.workers).
        title: what the console calls the training; None: `name`.
        epochs: of the whole training, for the time left.
        callbacks: of Ray Train, told of every report (a sweep hands them on to Ray Tune).
        fence: of the run, in a process that does not own it itself (a sweep's trial).
        limits: longest waits; None: the session's. Whoever calls this in a process that Ray started must give them.

    Raises:
        SessionError: the workers can never start, they ask for more than there is.
        RuntimeError: the loop failed more often than workers.max_failures; carries the loop's error.
        TrainingGivenUp: the same, where workers hung or had too little memory.
        Stalled: no worker gave a sign of life for too long.
        NoCheckpoint: it ended without one.
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
    limits, signs = limits or session.limits(), Signs()
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
            "signs": signs,
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

    with signs.kept():
        try:
            with training_shown(training, title or name, epochs, told=stage_progress.current()):
                (result,) = patiently(results, signs, minutes=limits.place_minutes, waits_for=waits_for)
        except ray.train.TrainingFailedError as error:
            check_owner(folder)  # it may have failed because its files are another session's now
            words = signs.all_words()
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
    if start is not None:  # it was at its end when the session before this one was
        return start
    raise NoCheckpoint(f"training {name} ended without a checkpoint")


def new_session(training: str) -> str:
    """Name of a session's folder inside `training`, that of no other one."""
    last = max(map(_number, _sessions(training)), default=0)
    return f"{last + 1:06d}-{uuid.uuid4().hex[:8]}"


def new_checkpoint() -> str:
    """Name of a checkpoint's folder."""
    return f"checkpoint_{uuid.uuid4().hex[:12]}"


def note_checkpoint(session: str, name: str, metrics: Mapping[str, float]) -> None:
    """Say that the session's checkpoint of that name is whole, and the last one."""
    kept = {"folder": name, "metrics": dict(metrics)}
    storage.write_bytes(storage.join(session, LATEST), json.dumps(kept).encode())


def last_checkpoint(training: str) -> TrainResult | None:
    """The last session's last checkpoint that is whole; None where no session left one."""
    for name in sorted(_sessions(training), key=_number, reverse=True):
        session = storage.join(training, name)
        try:
            facts = json.loads(storage.read_bytes(storage.join(session, LATEST)))
        except FileNotFoundError:
            continue
        return TrainResult(facts["metrics"], storage.join(session, facts["folder"]))
    return _of_ray(training)


def forget_other_checkpoints(training: str, kept: TrainResult | None) -> None:
    """Remove what earlier sessions left in `training`, but `kept` with the folder of its session."""
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
    """The last checkpoint of an earlier version, whose sessions all wrote into `training` itself."""
    try:
        last = json.loads(storage.read_bytes(storage.join(training, OF_RAY)))["latest_checkpoint_result"]
    except FileNotFoundError:
        return None
    return None if last is None else TrainResult(last["metrics"], storage.join(training, last["checkpoint_dir_name"]))
