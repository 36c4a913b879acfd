"""Storage errors: transient ones, which are retried, and permanent ones, which a person has to fix."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from fgvr import liveness
from fgvr.errors import UserError, chain

log = logging.getLogger(__name__)

# An object store that is overloaded, restarts or loses connections is asked again for minutes, with growing pauses. A
# full disk is told as one.

S3_TRIES = 22
"""Tries per request; s3fs pauses 0.1 s · 1.7ⁿ between them, at most 15 s: four minutes in all."""
CONNECT_SECONDS, READ_SECONDS = 15, 60
"""Timeouts of one try, for the connection and for the next bytes."""
TELL_SECONDS = 10.0
_PASSING = (
    *("SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "Throttling", "TooManyRequests"),
    *("RequestLimitExceeded", "BandwidthLimitExceeded", "(500)", "(502)", "(503)", "(504)", "Bad Gateway"),
)
_FULL = {errno.ENOSPC, errno.EDQUOT}
_NOT_OURS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}  # the last two: a file is there


class StorageFull(UserError, OSError):
    """The disk has no space left for a file."""


@contextmanager
def full_disk(target: Path, remedy: str | None = None) -> Iterator[None]:
    """Turns a full disk's error into StorageFull; other errors pass through.

    Args:
        target: the file that was to be written.
        remedy: what to do about it; None: what helps if it is one of a run's files.
    """
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        what_to_do = remedy or (
            "What is written is kept; make room, or move the run folder to a larger disk, and give the same command "
            "again"
        )
        raise StorageFull(f"{target}: no space is left there ({error.strerror}). {what_to_do}") from error


def is_full(error: OSError) -> bool:
    """Whether the error means that a disk, or this user's quota on it, is full."""
    return error.errno in _FULL


def cannot_write(error: OSError) -> bool:
    """Whether the error means that a folder cannot be written: full, read-only, no permission, or not a folder."""
    return is_full(error) or error.errno in _NOT_OURS


def patient(uri: str) -> dict[str, Any]:
    """Arguments for fsspec's file system of `uri` that set the retries described above."""
    if not uri.startswith(("s3://", "s3a://")):
        return {}
    _teach_s3fs()
    # Retries are counted in one place: botocore's own would multiply with ours.
    waits = {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS}
    return {"config_kwargs": {"retries": {"total_max_attempts": 1, "mode": "standard"}, **waits}}


@cache
def _teach_s3fs() -> None:
    """Runs once per process. By default s3fs gives up after 1.5 seconds, and at once on a server's internal error."""
    import s3fs.core

    s3fs.core.S3FileSystem.retries = S3_TRIES
    s3fs.core.set_custom_error_handler(_Passing())


class _Passing:
    """Decides whether an error is transient; logs from time to time what is being waited for."""

    def __init__(self) -> None:
        self._told = -TELL_SECONDS

    def __call__(self, error: Exception) -> bool:
        from botocore.exceptions import ConnectionError as BrokenConnection

        text = str(error)
        if not isinstance(error, BrokenConnection) and not any(words in text for words in _PASSING):
            return False
        liveness.beat()  # retries are bounded: waiting for a store is not a stall
        now = time.monotonic()
        if now - self._told >= TELL_SECONDS:
            self._told = now
            log.warning("the object store answers %s: trying again", text[:200])
        return True


# Permanent errors of a store or a disk, as sentences: no credentials, expired ones, another region, no such bucket.
#
# The libraries behind `fgvr.storage` raise errors of their own for these, some of which are not OSErrors, and s3fs
# hides a store's code behind Python's nearest error. A person has to fix all of these; waiting does not help.

_KEYS = "the environment must hold AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or the machine a role"
_RENEW = "they have expired: renew them (aws sso login, or new keys and AWS_SESSION_TOKEN)"
_WHO = (
    "the store does not know this key, or its secret is another one: check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, "
)
_WHO += "and AWS_ENDPOINT_URL if the store is not Amazon's"
_REGION = "the bucket is in another region{there}: set AWS_REGION and AWS_DEFAULT_REGION to it"

_BY_NAME = {
    "NoCredentialsError": f"there are no credentials for it: {_KEYS}",
    "NoAuthTokenError": f"there are no credentials for it: {_KEYS}",
    "PartialCredentialsError": f"the credentials are not complete ({{error}}): {_KEYS}",
    "CredentialRetrievalError": "its credentials cannot be had: {error}",
    "InvalidConfigError": "the configuration of AWS is wrong: {error}",
    "ConfigParseError": "the configuration of AWS cannot be read: {error}",
    "ProfileNotFound": "{error}: check AWS_PROFILE",
    "TokenRetrievalError": f"its credentials cannot be had: {_RENEW}",
    "SSOTokenLoadError": f"its credentials cannot be had: {_RENEW}",
    "UnauthorizedSSOTokenError": f"its credentials cannot be had: {_RENEW}",
    "NoRegionError": "no region is set: set AWS_REGION and AWS_DEFAULT_REGION",
    "InvalidRegionError": "{error}: check AWS_REGION and AWS_DEFAULT_REGION",
    "EndpointConnectionError": "no store answers: {error}; check AWS_ENDPOINT_URL and the network",
    "ConnectTimeoutError": "no store answers: {error}; check AWS_ENDPOINT_URL and the network",
    "ProxyConnectionError": "the proxy does not answer: {error}; check HTTPS_PROXY",
    "SSLError": "the store's certificate is not accepted: {error}",
    "ParamValidationError": "it cannot be the name of a bucket or an object: {error}",
    "DefaultCredentialsError": "there are no credentials for it: {error}",
    "RefreshError": "its credentials cannot be renewed: {error}",
    "ClientAuthenticationError": "its credentials are not accepted: {error}",
}
"""Messages by the name of the error's class, for libraries that need not be installed."""
_BY_CODE = {
    **dict.fromkeys(("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"), _RENEW),
    "InvalidToken": "AWS_SESSION_TOKEN does not belong to these keys, or is damaged",
    **dict.fromkeys(("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidClientTokenId", "AuthFailure"), _WHO),
    **dict.fromkeys(
        ("AccessDenied", "AllAccessDisabled", "AccountProblem", "NotSignedUp", "403", "Forbidden"),
        "access is denied: these credentials may not do this there (reading, listing and, for a run's folder, writing)",
    ),
    **dict.fromkeys(
        ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301"), _REGION
    ),
    "NoSuchBucket": "there is no such bucket",
    "InvalidBucketName": "it cannot be the name of a bucket",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it (the store allows fifteen minutes)",
}


_LOCAL = {errno.EACCES, errno.EPERM, errno.EROFS}


class StorageRefused(UserError):
    """A place named in a config cannot be read or written until a person changes something; the message says why."""


@contextmanager
def told(field: str, uri: str) -> Iterator[None]:
    """Turns a permanent error of a store or disk into StorageRefused, which names the field; other errors pass through.

    Args:
        field: dotted name in the config.
        uri: the field's value.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        words = refusal(error)
        if words is None:
            raise
        raise StorageRefused(f"{field} = {uri}: {words}") from error


def refusal(error: BaseException) -> str | None:
    """Why a place cannot be used, from an error or one of its causes; None if it is not such an error."""
    for cause in chain(error):
        code = _code(cause)
        if code in _BY_CODE:
            return _BY_CODE[code].format(there=_region(cause))
        for kind in type(cause).__mro__:
            if kind.__name__ in _BY_NAME and kind.__module__.split(".")[0] not in {"fgvr", "builtins"}:
                return _BY_NAME[kind.__name__].format(error=str(cause).strip().rstrip("."))
    for cause in chain(error):
        if isinstance(cause, OSError) and (is_full(cause) or cause.errno in _LOCAL):
            return f"it cannot be used: {cause.strerror}{f' ({cause.filename})' if cause.filename else ''}"
        if isinstance(cause, PermissionError):
            return f"access is denied: {cause}"
    return None


def _code(error: BaseException) -> str:
    """The object store's code for an error."""
    facts = _facts(error).get("Error")
    return str(facts.get("Code", "")) if isinstance(facts, dict) else ""


def _region(error: BaseException) -> str:
    facts = _facts(error)
    headers = facts.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    found = facts.get("Error", {}).get("Region") or headers.get("x-amz-bucket-region")
    return f", {found}" if found else ""


def _facts(error: BaseException) -> dict[str, Any]:
    found = getattr(error, "response", None)
    return found if isinstance(found, dict) else {}
