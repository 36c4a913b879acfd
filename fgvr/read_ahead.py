"""Work done by threads a little ahead of its consumer: in order, and in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from fgvr import liveness

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(
    work: Callable[[Item], Result], items: Iterable[Item], *, threads: int, ahead: int | None = None
) -> Iterator[Result]:
    """`map(work, items)` on threads that never have more than `ahead` results waiting.

    Args:
        work: called once for each item; its exception is raised where its result would have come.
        items: taken only as fast as results are consumed.
        threads: 0 works in the calling thread.
        ahead: items in work or waiting; default: twice the threads.
    """
    if threads <= 0:
        for result in map(work, items):
            liveness.beat()
            yield result
        return
    rest = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Result]] = deque(pool.submit(work, item) for item in islice(rest, ahead or 2 * threads))
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(work, item) for item in islice(rest, 1))
                liveness.beat()
                yield result
        finally:  # the consumer stopped, or the work failed: what has not begun need not begin
            for future in waiting:
                future.cancel()
