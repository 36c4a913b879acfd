"""A training run as a stage: under Ray Train, resumed where it ended, its model and history beside its table."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from fgvr import storage
from fgvr.config.base import TrainWorkers
from pipelines.stage import Phase, Run, Stage, workers_at

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from cluster.stage import StageFolder, StageSummary
    from fgvr.training.reporter import Reporter

MODEL_FOLDER = "model"


@dataclass(frozen=True)
class Training:
    """What is trained.

    Attributes:
        loop: a module-level function of fgvr that trains to the last epoch.
        job: its argument; must pickle.
        epochs: of the whole training run, for the time left.
        made_of: what the stage put together for it and needs again for its table.
    """

    loop: Callable[[Any, Reporter], Any]
    job: Any
    epochs: float
    made_of: Any = None


class TrainStage(Stage):
    """A table with one row per training image; beside it `model/` and `history.json`, in MLflow the history.

    Attributes:
        rows_per_part: of its table.
        logs_model: its model is logged in MLflow, too, as `tracking.log_models` says.
    """

    phase: ClassVar[Phase | None] = "train"
    rows_per_part: ClassVar[int] = 2**20
    logs_model: ClassVar[bool] = True

    @abstractmethod
    def training(self, run: Run, folder: StageFolder) -> Training:
        """Put together what is learned from; files that the workers read go into the folder."""

    def models(self, checkpoint: Path) -> Mapping[str, Path]:
        """Folders that stay beside the table, by their names in it: the last epoch's as `model`."""
        from fgvr.training.checkpoint import LAST

        return {MODEL_FOLDER: checkpoint / LAST}

    @abstractmethod
    def rows(self, run: Run, training: Training, checkpoint: Path) -> pa.Table:
        """The table: what became of each image."""

    def finish(self, run: Run, training: Training, checkpoint: Path, rows: pa.Table, summary: StageSummary) -> None:
        """Add to what the finished table says about itself; its metrics are those of the last report."""

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Train, keep the models, and list the images."""
        from cluster.stage_files import training_name
        from cluster.tracking import log_history, log_model
        from cluster.train import train
        from fgvr.training.checkpoint import HISTORY_FILE, read_history

        place = self.workers(run.config)
        workers = workers_at(run.config, place)
        if place is None or not isinstance(workers, TrainWorkers):
            raise TypeError(f"{self.table}: a training needs its workers")
        training = self.training(run, folder)
        trained = train(
            training.loop,
            training.job,
            name=training_name(folder.attempt),
            folder=folder.uri,
            workers=workers,
            field=place,
            title=self.table,
            epochs=training.epochs,
        )
        checkpoint = storage.fetch_folder(trained.checkpoint)
        for name, kept in self.models(checkpoint).items():
            storage.put_folder(kept, folder.path(name))
        folder.write_bytes(HISTORY_FILE, (checkpoint / HISTORY_FILE).read_bytes())
        log_history([row for row in read_history(checkpoint) if "epoch" in row])
        if self.logs_model and run.config.tracking.log_models:
            log_model(folder.path(MODEL_FOLDER), self.table)
        rows = self.rows(run, training, checkpoint)
        summary = folder.write_table(rows, self.rows_per_part)
        summary.metrics = dict(trained.metrics)
        self.finish(run, training, checkpoint, rows, summary)
        storage.forget_folder(checkpoint)  # a copy of a remote one: what is needed of it is in the table's folder
        return summary
