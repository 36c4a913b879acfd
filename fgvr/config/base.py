"""What all config parts share: unknown fields are errors, values are checked, objects are immutable."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from fgvr.config.tree import Basic, Tuned, given_tree, merge, options
from fgvr.redact import masked_tree

RUNTIME_ONLY = "runtime only"
"""Marks a field, as `Annotated[int, RUNTIME_ONLY]`, that says where, how fast or how wide something runs: whatever its
value, the same comes out, so that no fingerprint has it."""


UNUSED: Final = "unused"
"""Type of pydantic's error where a field says something that `Part.unused` knows to be without use."""


class Part(BaseModel):
    """A part of the config tree; every field carries its own docstring, which `--help` prints."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )

    may_be_empty: ClassVar[frozenset[str]] = frozenset()
    """Names of the text fields that may be empty."""

    @model_validator(mode="before")
    @classmethod
    def _the_rest_of_a_default_stays(cls, values: Any) -> Any:
        """The other fields of a part keep the defaults that it has in this place (`Workers(rows_per_part=256)`)."""
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
        """Refuses a boolean for a number: `epochs: yes` would mean one epoch."""
        for name in cls.model_fields if isinstance(values, dict) else ():
            kinds = set(options(cls.model_fields[name].annotation))
            if isinstance(values.get(name), bool) and kinds & {int, float} and bool not in kinds:
                raise ValueError(f"{name} = {values[name]}: should be a number")
        return values

    @field_validator("*", mode="after")
    @classmethod
    def _text_says_something(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuses empty text: an empty path would be the working directory, where none was meant."""
        if isinstance(value, str) and not value.strip() and info.field_name not in cls.may_be_empty:
            kinds = options(cls.model_fields[info.field_name or ""].annotation)
            none = "; write null for none" if type(None) in kinds else ""
            raise ValueError(f"is empty{none}")
        return value

    def unused(self) -> Iterator[tuple[str, str]]:
        """Fields whose value nothing would read because of another field, each with what to do: they are refused."""
        yield from ()

    @model_validator(mode="after")
    def _what_is_given_is_used(self) -> Self:
        for field, advice in self.unused():
            said = f"{field} = {getattr(self, field)}: {advice}"
            raise PydanticCustomError(UNUSED, "{said}", {"field": field, "said": said})
        return self

    def deciding(self) -> dict[str, Any]:
        """Values by field of what decides what comes out: all that is not marked as `RUNTIME_ONLY`."""
        fields = type(self).model_fields
        return {name: getattr(self, name) for name, info in fields.items() if RUNTIME_ONLY not in info.metadata}

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """What tracebacks and logs show of a part: no secrets."""
        for name, value in super().__repr_args__():
            yield name, masked_tree(value, name or "")


class Workers(Part):
    """Workers of a row-parallel stage: Ray actors that load the model once and process part after part of the rows."""

    min_workers: int = Field(default=1, ge=1)
    """Workers that start at once and keep running; more are added, up to `max_workers`, while parts are waiting."""
    max_workers: Tuned[int] = Field(default=1, ge=1)
    """Upper limit of workers. Raise it to use more GPUs, cores or nodes at the same time."""
    num_cpus: float = Field(default=1, gt=0)
    """CPU cores reserved per worker, and the number of threads it may use."""
    num_gpus: Basic[float] = Field(default=0, ge=0)
    """GPUs per worker: 0 computes on the CPU, 1 on a GPU, a fraction lets several workers share a GPU. For an MLLM give
    its `tensor_parallel_size`."""
    accelerator_type: str | None = None
    """Run only on nodes with this accelerator, by Ray's name for it (A100, H100, L4 …); null: on any."""
    memory_gb: float | None = Field(default=None, gt=0)
    """Memory reserved per worker, in GiB. Set it where Ray places more workers on a node than its memory can hold;
    null: nothing is reserved."""
    rows_per_part: int = Field(default=1024, ge=1)
    """Rows per part file: the most that is lost when a worker dies, and the unit of progress. A table that has been
    started keeps the size it was started with."""

    def deciding(self) -> dict[str, Any]:
        """Nothing: which row lies in which file, the table's folder says."""
        return {}

    @property
    def device(self) -> Literal["cuda", "cpu"]:
        """The device they compute on, by what they reserve: the driver, which asks, may have another one."""
        return "cuda" if self.num_gpus else "cpu"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_workers > self.max_workers:
            raise ValueError(f"min_workers = {self.min_workers} is more than max_workers = {self.max_workers}")
        if self.num_gpus > 1 and self.num_gpus != int(self.num_gpus):
            raise ValueError(f"num_gpus = {self.num_gpus:g}: above one GPU Ray gives whole ones only")
        return self


class TrainWorkers(Part):
    """Workers of a training stage; several are connected by Ray Train."""

    num_workers: int = Field(default=1, ge=1)
    """Data-parallel training processes; the maximum where `min_workers` is set."""
    min_workers: int | None = Field(default=None, ge=1)
    """Elastic training: start or continue with as few workers as this where resources are short, and add workers, from
    the last checkpoint, once they are free (checked once a minute). The batch size stays the same. null: always wait
    for all `num_workers`."""
    num_cpus: float = Field(default=2, gt=0)
    """CPU cores reserved per worker, and the number of threads it may use."""
    use_gpu: Basic[bool] = False
    """Train on GPUs, one per worker (with NCCL instead of Gloo)."""
    max_failures: int = Field(default=3, ge=-1)
    """How often training restarts from its last checkpoint after a worker died; -1: without limit."""

    def deciding(self) -> dict[str, Any]:
        """Nothing: a step is the step of all its images, however many share it."""
        return {}

    @property
    def solo(self) -> bool:
        """Whether there is never more than one, so that no processes have to be connected."""
        return self.num_workers == 1

    @property
    def device(self) -> Literal["cuda", "cpu"]:
        """The device they compute on."""
        return "cuda" if self.use_gpu else "cpu"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(f"min_workers = {self.min_workers} is more than num_workers = {self.num_workers}")
        return self
