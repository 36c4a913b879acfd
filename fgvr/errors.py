"""Errors that the person who started a run can mend."""

from __future__ import annotations

from collections.abc import Iterator

from fgvr.redact import masked


class UserError(Exception):
    """A wrong value, a missing file, too little memory: the message says what, where, and what to do.

    Command lines show the message without a traceback. It never shows a secret that it was made with.
    """

    def __str__(self) -> str:
        return masked(super().__str__())


def user_error_in(error: BaseException) -> BaseException | None:
    """The UserError in an error's chain of causes: Ray wraps what its workers raise; None where there is none."""
    return next((cause for cause in chain(error) if isinstance(cause, UserError)), None)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it came from; of what Ray wraps, the inner one before it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        # Ray's RayTaskError keeps the worker's own exception as `cause`, Ray Train its workers' as a dict. Those come
        # first: a RayTaskError is an instance of its cause's class, too, but its message is a traceback.
        inner = getattr(error, "cause", None)
        if isinstance(inner, BaseException):
            yield from chain(inner)
        workers = getattr(error, "worker_failures", None)
        if isinstance(workers, dict):
            for failure in workers.values():
                yield from chain(failure)
        yield error
        error = error.__cause__ or error.__context__
