"""The worker's side of a training run: it runs a plain PyTorch loop of fgvr and keeps what the loop reports.

Nothing here imports what only the driver uses, since every worker would pay for it with seconds at its start.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cluster.checkpoints import KEPT, TrainResult, new_checkpoint, note_checkpoint
from cluster.heartbeat import Heartbeats
from cluster.progress import ProgressWriter
from cluster.watchdog import Watchdog, is_out_of_memory
from fgvr import liveness, storage
from fgvr.config.run import Limits
from fgvr.training.reporter import Reporter

Loop = Callable[[Any, Reporter], object]
OnReport = Callable[[dict[str, float]], object]


@dataclass(frozen=True)
class TrainJob:
    """What the workers of a training run need to know.

    Attributes:
        loop: a module-level function of fgvr.training.
        config: its argument; must pickle.
        title: name of the training run, for messages.
        folder: the folder of its sessions.
        threads: threads of each worker.
        use_gpu: whether each worker has a GPU.
        limits: longest waits.
        heartbeats: where workers send their heartbeats and last words.
    """

    loop: Loop
    config: Any
    title: str
    folder: str
    threads: int
    use_gpu: bool
    limits: Limits
    heartbeats: Heartbeats


@dataclass(frozen=True)
class Session:
    """One attempt at a training run: the folder for its checkpoints, and the checkpoint that it continues from."""

    folder: str
    start: TrainResult | None


class LoopReporter(Reporter):
    """A loop's reporter that fetches a checkpoint, of which it may have a copy to release."""

    def __init__(self, job: TrainJob, session: Session) -> None:
        self._progress, self._session = ProgressWriter(job.folder), session
        self._resumed: Path | None = None

    def _last_checkpoint(self) -> str | None:
        """The checkpoint to resume from."""
        return None if self._session.start is None else self._session.start.checkpoint

    def resume_folder(self) -> Path | None:
        """The last checkpoint of an interrupted training run as a local folder: the original, or a cached copy."""
        last = self._last_checkpoint()
        self._resumed = None if last is None else storage.fetch_folder(last)
        return self._resumed

    def end(self) -> None:
        """Release the cached copy of the checkpoint from which training resumed."""
        if self._resumed is not None:
            storage.forget_folder(self._resumed)


class SoloReporter(LoopReporter):
    """The loop's view of a training run with one worker; see fgvr.training.reporter.Reporter.

    Args:
        job: the training run.
        session: this attempt at it.
        on_report: called with the metrics of every report.
    """

    rank, world_size = 0, 1

    def __init__(self, job: TrainJob, session: Session, on_report: OnReport | None = None) -> None:
        super().__init__(job, session)
        self.device = torch.device("cuda:0" if job.use_gpu else "cpu")  # Ray shows a worker its own GPU alone
        self.last: TrainResult | None = None
        self._on_report = on_report
        self._kept: list[str] = []

    def report(self, metrics: dict[str, float], save: Callable[[Path], None] | None = None) -> None:
        """Report, and keep what `save` writes as a checkpoint."""
        liveness.beat()
        self._progress.write(metrics)
        if save is not None:
            self._keep(metrics, save)
        if self._on_report is not None:
            self._on_report(dict(metrics))

    def _keep(self, metrics: dict[str, float], save: Callable[[Path], None]) -> None:
        name = new_checkpoint()
        place = storage.join(self._session.folder, name)
        with tempfile.TemporaryDirectory() as temporary:
            save(Path(temporary))
            storage.put_folder(Path(temporary), place)  # which waits for the disk; nothing reads it before it is noted
        note_checkpoint(self._session.folder, name, metrics)
        self.last = TrainResult(dict(metrics), place)
        self._kept.append(place)
        while len(self._kept) > KEPT:
            storage.remove(self._kept.pop(0))


class GroupReporter(LoopReporter):
    """The loop's view of Ray Train, on each of several workers; see fgvr.training.reporter.Reporter.

    Args:
        job: the training run.
        session: this attempt at it, with all restarts by Ray Train.
        every_report: whether Ray Train gets reports without a checkpoint as well. Its controller takes one report per
            poll, every two seconds, which is longer than an epoch of a small training run.
    """

    def __init__(self, job: TrainJob, session: Session, *, every_report: bool) -> None:
        import ray.train
        import ray.train.torch

        super().__init__(job, session)
        context = ray.train.get_context()
        self.rank = int(context.get_world_rank())
        self.world_size = int(context.get_world_size())
        self.device = ray.train.torch.get_device()
        self._every_report = every_report

    def _last_checkpoint(self) -> str | None:
        """That of this attempt, after a restart by Ray Train."""
        import ray.train

        own = ray.train.get_checkpoint()
        if own is None:
            return super()._last_checkpoint()
        return storage.join(self._session.folder, Path(own.path).name)

    def report(self, metrics: dict[str, float], save: Callable[[Path], None] | None = None) -> None:
        """Report on all ranks (a barrier); rank 0 keeps what `save` writes as a checkpoint."""
        import ray.train

        liveness.beat()
        if self.rank == 0:
            self._progress.write(metrics)
        if save is None and not self._every_report:
            return
        if save is None or self.rank != 0:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as temporary:
            save(Path(temporary))
            name, checkpoint = new_checkpoint(), ray.train.Checkpoint.from_directory(temporary)
            ray.train.report(metrics, checkpoint=checkpoint, checkpoint_dir_name=name)
        note_checkpoint(self._session.folder, name, metrics)


def run_loop(job: TrainJob, reporter: LoopReporter) -> None:
    """Run the loop in this process, watched: a worker that hangs or is out of memory says so and ends."""
    torch.set_num_threads(job.threads)
    watchdog = Watchdog(job.heartbeats)
    what = f"training {job.title}, worker {reporter.rank}"
    try:
        with watchdog.over(what, job.limits.silent_minutes, "cluster.limits.silent_minutes"):
            job.loop(job.config, reporter)
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            job.heartbeats.last_words(f"{what}: out of memory ({type(error).__name__}: {error})")
        raise
    finally:
        reporter.end()


def run_solo(job: TrainJob, session: Session, on_report: OnReport | None = None) -> TrainResult | None:
    """Run the loop as the only worker; returns its last checkpoint, None where it reported none."""
    reporter = SoloReporter(job, session, on_report)
    run_loop(job, reporter)
    return reporter.last


def run_in_group(config: dict[str, Any]) -> None:
    """Run the loop as one of Ray Train's workers; `config` has the arguments of `GroupReporter`."""
    run_loop(config["job"], GroupReporter(**config))
