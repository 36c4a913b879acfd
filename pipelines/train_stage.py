"""A training run as a stage: it runs on Ray, can be resumed, and leaves model and history beside its table."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from fgvr import storage
from fgvr.config.base import TrainWorkers
from pipelines.run_tables import Run
from pipelines.stage import Phase, Stage, workers_at

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from cluster.stage import StageFolder, StageSummary
    from fgvr.training.reporter import Reporter

MODEL_FOLDER = "model"


@dataclass(frozen=True)
class Training:
    """The job of a training run.

    Attributes:
        loop: a module-level function of fgvr that trains until the last epoch.
        job: its argument; must pickle.
        epochs: number of epochs of the whole training run, for the time estimate.
        made_of: what the stage prepared for training and needs again for its table.
        started: what the pretrained weights gave, in a sentence; "" where training starts from scratch.
        remarks: what was found before training and a reader of the results must know.
        extra: further metadata of the table.
    """

    loop: Callable[[Any, Reporter], Any]
    job: Any
    epochs: float
    made_of: Any = None
    started: str = ""
    remarks: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


class TrainStage(Stage):
    """A stage with one row per training image; `model/` and `history.json` beside the table, the history in MLflow.

    Attributes:
        rows_per_part: number of rows per part file of its table.
        logs_model: whether its model is also logged in MLflow, where `tracking.log_models` is on.
    """

    phase: ClassVar[Phase | None] = "train"
    rows_per_part: ClassVar[int] = 2**20
    logs_model: ClassVar[bool] = True

    @abstractmethod
    def training(self, run: Run, folder: StageFolder) -> Training:
        """Prepare the training job; files that the workers read go into the folder."""

    def models(self, checkpoint: Path) -> Mapping[str, Path]:
        """Folders to keep beside the table, by name; by default that of the last epoch as `model`."""
        from fgvr.training.checkpoint import LAST

        return {MODEL_FOLDER: checkpoint / LAST}

    @abstractmethod
    def rows(self, run: Run, training: Training, checkpoint: Path) -> pa.Table:
        """The rows of the table: what became of each image."""

    def finish(self, run: Run, training: Training, checkpoint: Path, rows: pa.Table, summary: StageSummary) -> None:
        """Add to the metadata of the finished table; its metrics are those of the last report."""

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Train, keep the models, and write the rows."""
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
        storage.forget_folder(
            checkpoint
        )  # a copy of a remote checkpoint: what is needed of it is in the table's folder
        return summary
