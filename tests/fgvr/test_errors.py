from ray.exceptions import RayTaskError

from fgvr.errors import UserError, user_error_in


class NoKey(UserError, ValueError):
    """A cause that the user can mend."""


def test_the_cause_is_found_below_what_was_raised_from_it() -> None:
    mended = NoKey("set the key")
    outer = RuntimeError("training failed")
    outer.__cause__ = mended
    assert user_error_in(outer) is mended
    assert user_error_in(RuntimeError("a bug")) is None


def test_of_an_error_that_ray_carried_the_cause_is_shown_and_not_its_traceback() -> None:
    carried = RayTaskError("train", "Traceback: …\nNoKey: set the key", NoKey("set the key")).as_instanceof_cause()
    assert isinstance(carried, NoKey)
    assert str(user_error_in(carried)) == "set the key"


def test_an_error_of_one_of_the_workers() -> None:
    failed = RuntimeError("worker group")
    failed.worker_failures = {0: KeyError("x"), 1: NoKey("set the key")}
    assert str(user_error_in(failed)) == "set the key"
