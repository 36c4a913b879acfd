"""Prefetch: threads work a little ahead of the consumer, in order and in bounded memory."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import islice
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from fgvr import liveness

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(
    work: Callable[[Item], Result], items: Iterable[Item], *, threads: int, ahead: int | None = None
) -> Iterator[Result]:
    """Like `map(work, items)`, but on threads that never have more than `ahead` results waiting.

    Args:
        work: called once per item; its exception is raised in place of its result.
        items: consumed only as fast as the results are.
        threads: number of threads; 0 works in the calling thread.
        ahead: limit for items in work or waiting; default: twice the number of threads.
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
        finally:  # the consumer stopped or the work failed: cancel what has not begun
            for future in waiting:
                future.cancel()


class Ahead(Generic[Result]):
    """`read_ahead` for a consumer that does other work while nothing is ready: `ready` checks that without blocking.

    Items are taken in another thread, since that may take as long as the work on them. Use it as a context manager,
    which ends both threads.
    """

    def __init__(self, work: Callable[[Item], Result], items: Iterable[Item], pool: Executor, *, ahead: int) -> None:
        """`work` runs on `pool`; at most `ahead` items are taken whose results were not yet consumed."""
        self._begun: queue.SimpleQueue[Future[Result] | None] = queue.SimpleQueue()
        self._head: Future[Result] | None = None
        self._free = threading.Semaphore(ahead)
        self._ended = self._stopped = False
        self._feeder = threading.Thread(target=self._feed, args=(work, items, pool), daemon=True)

    def __enter__(self) -> Self:
        self._feeder.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped = True
        self._free.release()
        self._feeder.join()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Result:
        """The next result; raises what its work, or taking its item, raised."""
        head = self._head if self._head is not None or self._ended else self._taken(self._begun.get())
        if head is None:
            raise StopIteration
        try:
            result = head.result()
        finally:
            self._head = None
            self._free.release()
        liveness.beat()
        return result

    def ready(self) -> bool:
        """Whether `next` will not block: the next result has arrived, or the end has."""
        if self._head is None and not self._ended:
            try:
                self._taken(self._begun.get_nowait())
            except queue.Empty:
                return False
        return self._head is None or self._head.done()

    def _taken(self, head: Future[Result] | None) -> Future[Result] | None:
        self._head, self._ended = head, head is None
        return head

    def _feed(self, work: Callable[[Item], Result], items: Iterable[Item], pool: Executor) -> None:
        begun: list[Future[Result]] = []
        try:
            rest = iter(items)
            while self._free.acquire() and not self._stopped:
                item = next(rest, _END)
                if item is _END:
                    break
                begun = [future for future in begun if not future.done()]
                begun.append(pool.submit(work, item))
                self._begun.put(begun[-1])
            for future in begun if self._stopped else []:
                future.cancel()
        except BaseException as error:  # raised in place of the item
            failed: Future[Result] = Future()
            failed.set_exception(error)
            self._begun.put(failed)
        finally:
            self._begun.put(None)


_END: Any = object()
