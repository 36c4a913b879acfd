"""What the compared methods compute: vocabularies from elsewhere, names from attributes, text and image prototypes."""

from fgvr.errors import UserError


class BaselineError(UserError, ValueError):
    """A baseline that cannot be computed; the message names the config field, the file, or the model's reply."""


__all__ = ["BaselineError"]
