"""One call of a function in a Ray worker: for work that needs a worker's memory or GPU, but only once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from cluster import lending, session
from cluster.capacity import reserved, wanted
from cluster.part_actor import limit_threads
from cluster.signs import Signs
from cluster.waiting import patiently
from cluster.watchdog import Watchdog, is_out_of_memory
from fgvr.config.base import Workers
from fgvr.errors import UserError
from fgvr.part_worker import WorkerLost

Result = TypeVar("Result")

RETRIES = 2


class WorkerDied(UserError):
    """The one worker died, and those that replaced it."""


def run_once(function: Callable[..., Result], *arguments: Any, workers: Workers) -> Result:
    """The result of `function(*arguments)`, computed with what one of `workers` reserves.

    What the function raises is raised here, inside Ray's own error.

    Raises:
        WorkerDied: its process ended, every time it was tried.
        Stalled: no sign of life for too long, as where no node has room for it.
    """
    import ray

    name, signs, limits = getattr(function, "__name__", "work").strip("_"), Signs(), session.limits()

    def work() -> Result:
        limit_threads(max(1, int(workers.num_cpus)))
        watchdog = Watchdog(signs)
        # Loading a model is a part of it: the longer of the two limits holds.
        field = max(("start_minutes", "silent_minutes"), key=lambda each: float(getattr(limits, each)))
        try:
            with watchdog.over(name, getattr(limits, field), f"cluster.limits.{field}"):
                return function(*arguments)
        except (WorkerLost, MemoryError, RuntimeError) as error:
            if not isinstance(error, WorkerLost) and not is_out_of_memory(error):
                raise
            watchdog.end(f"{name}: {type(error).__name__}: {error}", error)

    task = ray.remote(work).options(**reserved(workers), max_retries=RETRIES)

    def results() -> Iterator[Result]:
        yield ray.get(task.remote())

    def waits_for() -> str:
        return f"{name}: waiting for one of {wanted(workers)}"

    lending.make_room(workers)
    with signs.kept():
        try:
            (result,) = patiently(results, signs, minutes=limits.place_minutes, waits_for=waits_for)
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
            words = signs.all_words()
            raise WorkerDied(
                f"{name}: its worker died each of {RETRIES + 1} times ({type(error).__name__})"
                + (f"; the last one said: {words[-1]}" if words else "; Ray's log files have its last words")
            ) from error
    return result
