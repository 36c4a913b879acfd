"""Computations of the compared methods: external vocabularies, names from attributes, text and image prototypes."""

from fgvr.errors import UserError


class BaselineError(UserError, ValueError):
    """A baseline cannot be computed; the message names the config field, the file, or the model's reply."""


__all__ = ["BaselineError"]
