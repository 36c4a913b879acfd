"""One call of a function in a Ray worker: for work that needs a worker's memory or GPU, but only once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from cluster.parts import limit_threads
from fgvr.config.base import Workers

Result = TypeVar("Result")


def run_once(function: Callable[..., Result], *arguments: Any, workers: Workers) -> Result:
    """The result of `function(*arguments)`, computed with what one of `workers` reserves.

    What the function raises is raised here, inside Ray's own error.
    """
    import ray

    def work() -> Result:
        limit_threads(max(1, int(workers.num_cpus)))
        return function(*arguments)

    task = ray.remote(work).options(
        num_cpus=workers.num_cpus,
        num_gpus=workers.num_gpus or None,
        accelerator_type=workers.accelerator_type,
        memory=None if workers.memory_gb is None else int(workers.memory_gb * 2**30),
    )
    result: Result = ray.get(task.remote())
    return result
