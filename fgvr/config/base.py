"""The base of all config parts: unknown fields are errors, values are checked, objects are immutable."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fgvr.safe_text import masked_tree


class Part(BaseModel):
    """A part of the config tree; every field carries its own docstring, which `--help` prints."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """What a traceback or a log shows of a part: without secrets."""
        for name, value in super().__repr_args__():
            yield name, masked_tree(value, name or "")


class Workers(Part):
    """Workers of a row-parallel stage: Ray actors that hold a model and take one part of the rows at a time."""

    min_workers: int = Field(default=1, ge=1)
    """Actors kept running."""
    max_workers: int = Field(default=1, ge=1)
    """Actors started at most while parts are waiting."""
    num_cpus: float = Field(default=1, gt=0)
    """CPU cores an actor reserves; it also limits its threads to this number."""
    num_gpus: float = Field(default=0, ge=0)
    """GPUs an actor reserves; a fraction shares one GPU between actors. An MLLM's: its `tensor_parallel_size`."""
    accelerator_type: str | None = None
    """Only on nodes with this accelerator, as Ray names it (A100, H100, L4 …); null: any."""
    memory_gb: float | None = Field(default=None, gt=0)
    """Memory an actor reserves, GiB, so that Ray does not put too many on a node; null: none reserved."""
    rows_per_part: int = Field(default=1024, ge=1)
    """Rows a part file holds: what is lost at most when a worker dies, and the unit of progress."""

    @property
    def device(self) -> Literal["cuda", "cpu"]:
        """Where they compute, by what they reserve: the driver, which asks, may have another device or none."""
        return "cuda" if self.num_gpus else "cpu"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_workers > self.max_workers:
            raise ValueError(f"min_workers = {self.min_workers} is more than max_workers = {self.max_workers}")
        if self.num_gpus > 1 and self.num_gpus != int(self.num_gpus):
            raise ValueError(f"num_gpus = {self.num_gpus:g}: above one GPU Ray gives whole ones only")
        return self


class TrainWorkers(Part):
    """Workers of a training stage under Ray Train."""

    num_workers: int = Field(default=1, ge=1)
    """Data-parallel processes, at most where `min_workers` is given."""
    min_workers: int | None = Field(default=None, ge=1)
    """Elastic: begin or go on with as few as these where there is no room for all, and add workers, from the last
    checkpoint, when there is (looked at once a minute). A step stays the step of all images. null: always all."""
    num_cpus: float = Field(default=2, gt=0)
    """CPU cores a worker reserves; it also limits its threads to this number."""
    use_gpu: bool = False
    """One GPU a worker, with nccl instead of gloo."""
    max_failures: int = Field(default=3, ge=-1)
    """Restarts from the last checkpoint after a worker died; -1: without limit."""

    @property
    def device(self) -> Literal["cuda", "cpu"]:
        """Where they compute."""
        return "cuda" if self.use_gpu else "cpu"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(f"min_workers = {self.min_workers} is more than num_workers = {self.num_workers}")
        return self
