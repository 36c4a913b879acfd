"""The base of all config parts: unknown fields are errors, values are checked, objects are immutable."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from fgvr.config.tree import given_tree, merge, options
from fgvr.safe_text import masked_tree

RUNTIME_ONLY = "runtime only"
"""Marks a field, as `Annotated[int, RUNTIME_ONLY]`, that says where, how fast or how wide something runs: whatever its
value, the same comes out, so that no fingerprint has it."""


class Part(BaseModel):
    """A part of the config tree; every field carries its own docstring, which `--help` prints."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )

    may_be_empty: ClassVar[frozenset[str]] = frozenset()
    """Names of the fields of text that may say nothing."""

    @model_validator(mode="before")
    @classmethod
    def _the_rest_of_a_default_stays(cls, values: Any) -> Any:
        """Of a part with values of its own by default (`Workers(rows_per_part=256)`), they hold where one is given."""
        if not isinstance(values, dict):
            return values
        filled = dict(values)
        for name, info in cls.model_fields.items():
            if isinstance(values.get(name), dict):
                default = info.get_default(call_default_factory=True)
                if isinstance(default, Part):
                    filled[name] = merge(given_tree(default), values[name])
        return filled

    @model_validator(mode="before")
    @classmethod
    def _true_is_no_number(cls, values: Any) -> Any:
        """`epochs: yes` would be one epoch."""
        for name in cls.model_fields if isinstance(values, dict) else ():
            kinds = set(options(cls.model_fields[name].annotation))
            if isinstance(values.get(name), bool) and kinds & {int, float} and bool not in kinds:
                raise ValueError(f"{name} = {values[name]}: should be a number")
        return values

    @field_validator("*", mode="after")
    @classmethod
    def _text_says_something(cls, value: Any, info: ValidationInfo) -> Any:
        """A path that is empty is the working directory, an empty name a name: meant was none."""
        if isinstance(value, str) and not value.strip() and info.field_name not in cls.may_be_empty:
            kinds = options(cls.model_fields[info.field_name or ""].annotation)
            none = "; write null for none" if type(None) in kinds else ""
            raise ValueError(f"is empty{none}")
        return value

    def deciding(self) -> dict[str, Any]:
        """Values by field of what decides what comes out: all that is not marked as `RUNTIME_ONLY`."""
        fields = type(self).model_fields
        return {name: getattr(self, name) for name, info in fields.items() if RUNTIME_ONLY not in info.metadata}

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
    """Rows a part file holds: what is lost at most when a worker dies, and the unit of progress. A table that was begun
    goes on with the size it was begun with."""

    def deciding(self) -> dict[str, Any]:
        """Nothing: which row lies in which file, the table's folder says."""
        return {}

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

    def deciding(self) -> dict[str, Any]:
        """Nothing: a step is the step of all its images, however many share it."""
        return {}

    @property
    def device(self) -> Literal["cuda", "cpu"]:
        """Where they compute."""
        return "cuda" if self.use_gpu else "cpu"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(f"min_workers = {self.min_workers} is more than num_workers = {self.num_workers}")
        return self
