"""A small job with all that a real one has around it: config, session, MLflow, stages, parts, a training.

python -m tests.faults.job --run.folder … --cluster.address …      # FAULT_JOB in the environment says the rest
"""

import json
import os
import signal
from dataclasses import asdict, dataclass, field

import numpy as np
import pyarrow as pa

from cluster.parts import PartJob
from cluster.run import run_main
from cluster.stage import RunContext, StageFolder, StageSummary
from cluster.stage_files import training_name
from cluster.train import train
from fgvr import storage
from fgvr.config.base import TrainWorkers, Workers
from fgvr.tables import MANIFEST, Table
from pipelines.command import PRESETS
from tests.faults.sick_workers import SCHEMA, HashWorker, Illness, count_up

ROWS = 48
EMPTY = 7


@dataclass(frozen=True)
class Job:
    """What the job does and what befalls it.

    Attributes:
        things: folder of the files that are hashed.
        diary: folder on this machine.
        illness: of its workers.
        dies: the driver kills itself `before` or `after` the manifest of the stage is written.
        trains: a training instead of the hashes.
        cpus: a worker reserves.
        train_workers: that train.
        epochs: of the training, a second each.
        gpus: a worker reserves.
        accelerator: that its node must have.
        workers: of the hashes.
        seconds: a row takes.
    """

    things: str
    diary: str
    illness: Illness = field(default_factory=Illness)
    dies: str = ""
    trains: bool = False
    cpus: float = 1
    train_workers: int = 1
    epochs: int = 6
    gpus: float = 0
    accelerator: str | None = None
    workers: int = 2
    seconds: float = 0.05

    def environment(self) -> dict[str, str]:
        """How it travels to the driver."""
        return {"FAULT_JOB": json.dumps(asdict(self))}

    @classmethod
    def from_environment(cls) -> "Job":
        facts = json.loads(os.environ["FAULT_JOB"])
        return cls(**{**facts, "illness": Illness(**facts["illness"])})


def write_things(folder: str) -> None:
    """Files of known bytes, one of them empty."""
    for number in range(ROWS):
        data = b"" if number == EMPTY else bytes([number]) * (number + 1)
        storage.write_bytes(storage.join(folder, f"{number:03d}.bin"), data)


def work(context: RunContext) -> None:
    job = Job.from_environment()
    uris = [storage.join(job.things, f"{number:03d}.bin") for number in range(ROWS)]

    def list_samples(folder: StageFolder) -> StageSummary:
        return folder.write_table(pa.table({"image_id": range(ROWS), "uri": uris}), 16)

    samples = context.stage("samples", decides={}, inputs=[], compute=list_samples)
    if job.dies:
        _die_at_the_commit(job.dies)
    if job.trains:
        context.stage("training", decides={}, inputs=[samples], compute=lambda folder: _train(job, folder))
    else:
        compute = _hashes(job, samples)
        context.stage("hashes", decides={}, inputs=[samples], compute=compute)


def _hashes(job: Job, samples: Table):
    def compute(folder: StageFolder) -> StageSummary:
        workers = Workers(
            rows_per_part=6,
            num_cpus=job.cpus,
            num_gpus=job.gpus,
            accelerator_type=job.accelerator,
            max_workers=job.workers,
            min_workers=job.workers,
        )
        arguments = {"diary": job.diary, "illness": job.illness, "seconds": job.seconds}
        parts = PartJob("hashes", folder.uri, HashWorker, arguments, SCHEMA, samples, workers)
        return folder.run_parts(parts, np.arange(ROWS), "hashes.workers")

    return compute


def _train(job: Job, folder: StageFolder) -> StageSummary:
    import torch

    workers = TrainWorkers(
        num_workers=job.train_workers,
        min_workers=1 if job.train_workers > 1 else None,
        num_cpus=job.cpus,
        max_failures=1,
    )
    config = {"epochs": job.epochs, "diary": job.diary, "illness": job.illness}
    name = training_name(folder.attempt)
    done = train(count_up, config, name=name, folder=folder.uri, workers=workers, field="near.workers")
    epoch, chain = torch.load(storage.fetch_folder(done.checkpoint) / "state.pt")
    return folder.write_table(pa.table({"image_id": [0], "epoch": [epoch], "chain": [chain]}))


def _die_at_the_commit(when: str) -> None:
    write = storage.write_bytes

    def dying(uri, data):
        manifest = str(uri).endswith(MANIFEST)
        if manifest and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        write(uri, data)
        if manifest and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)

    storage.write_bytes = dying


if __name__ == "__main__":
    run_main(__doc__, PRESETS, work)
