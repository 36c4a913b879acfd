"""Errors that the person who started a run can fix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from fgvr.redact import masked


class UserError(Exception):
    """A wrong value, a missing file, too little memory: the message says what, where, and what to do.

    Command lines show the message without a traceback. Secrets in the message are masked.

    Attributes:
        status: exit status of a run that it stops on the way.
    """

    status: ClassVar[int] = 1

    def __str__(self) -> str:
        return masked(super().__str__())


def user_error_in(error: BaseException) -> BaseException | None:
    """The UserError in an error's chain of causes, or None: Ray wraps what its workers raise."""
    return next((cause for cause in chain(error) if isinstance(cause, UserError)), None)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes; for errors that Ray wraps, the wrapped one comes first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        # Ray's RayTaskError keeps the worker's exception as `cause`; Ray Train keeps its workers' exceptions in a dict.
        # They come first: a RayTaskError is also an instance of its cause's class, but its message is a traceback.
        inner = getattr(error, "cause", None)
        if isinstance(inner, BaseException):
            yield from chain(inner)
        workers = getattr(error, "worker_failures", None)
        if isinstance(workers, dict):
            for failure in workers.values():
                yield from chain(failure)
        yield error
        error = error.__cause__ or error.__context__
