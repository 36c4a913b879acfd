"""One call of a function in a worker, for work that needs a worker's memory or GPU, but only once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from cluster import budget
from cluster.capacity import wanted
from cluster.lending import borrowed
from cluster.pool import TRIES, Part
from fgvr.config.base import Workers
from fgvr.config.run import Limits
from fgvr.part_worker import Engine

Result = TypeVar("Result")

RESULT = "result"


@dataclass(frozen=True)
class _Call:
    """A `cluster.part_actor.Job` whose only part is the call."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    engine: Engine | None

    def worker_with(self, model: Any) -> Callable[[], Any]:
        before = () if self.engine is None else (model,)
        return lambda: self.function(*before, *self.arguments)

    def compute(self, worker: Callable[[], Any], number: int, *, again: bool) -> dict[str, Any]:
        return {RESULT: worker()}

    def smoke_test(self, worker: Callable[[], Any], number: int, first: int) -> None:
        """A call has no rows: the call itself shows whether it works."""

    def silence(self, limits: Limits) -> tuple[float, str]:
        """Without an engine, loading a model is part of the call: so the longer of the two limits applies."""
        fields = ["silent_minutes"] if self.engine is not None else ["start_minutes", "silent_minutes"]
        field = max(fields, key=lambda each: float(getattr(limits, each)))
        return getattr(limits, field), f"cluster.limits.{field}"


def run_once(
    function: Callable[..., Result],
    *arguments: Any,
    workers: Workers,
    engine: Engine | None = None,
    keep_engine: bool = True,
) -> Result:
    """The result of `function(*arguments)`, computed with the resources of one of `workers`.

    Args:
        function: must pickle, as must its result. Its exceptions are raised here, wrapped by Ray.
        arguments: its arguments, preceded by the engine if there is one.
        workers: the resources to reserve.
        engine: a model to load first, or to take over from an earlier stage; passed as the first argument.
        keep_engine: whether a later stage asks it, so that it is not released at the end of the call.

    Raises:
        BudgetReached: it asks a model, which is expected to cost more than is left of `run.budget`.
        StageStopped: the function reported an error that the user has to fix.
        WorkersDied: its process died on every try.
        Stalled: no heartbeat for too long, for example because no node has room for it.
    """
    import ray
    from ray import cloudpickle

    name = getattr(function, "__name__", "work").strip("_")
    packed = cloudpickle.dumps(_Call(name, function, arguments, engine))

    def waits_for(_: int) -> str:
        return f"{name}: waiting for one of {wanted(workers)}"

    spending = budget.current()
    if engine is not None and spending is not None:
        spending.check_whole()
    with borrowed(engine, workers, 1, keep=keep_engine) as pool:
        (summary,) = pool.run(
            name, ray.put(packed), [Part(0)], at_once=1, most=1, lives=TRIES, waits_for=waits_for, gate=budget.gate()
        )
    result: Result = summary[RESULT]
    return result
