"""Downloading images: limits on concurrent requests, in total and per host, then the download itself."""

from __future__ import annotations

import base64
import os
import random
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from threading import BoundedSemaphore, Lock
from typing import Final
from urllib.parse import urljoin

import httpcore

from fgvr import liveness
from fgvr.config.web import WebPolicy
from fgvr.images.web_addresses import Address, CheckedBackend, NotAllowed, check_host
from fgvr.images.web_hosts import Deadline, SilentHosts

_REDIRECTS: Final = {301, 302, 303, 307, 308}
_PASSING: Final = {408, 429, 500, 502, 503, 504}
_FIRST_WAIT: Final = 0.5
"""Seconds before the second attempt; doubled before each further one."""
_REFUSAL: Final = 0.05
"""Seconds that each row of a skipped host costs: a short outage of the only host must not fail a table at once."""
_READERS: Final[dict[tuple[WebPolicy, int], _WebReader]] = {}
_LOCK: Final = Lock()


class Gates:
    """Semaphores for all requests and for each host; those of idle hosts are dropped."""

    def __init__(self, at_once: int, per_host: int) -> None:
        """At most `at_once` requests in total, and `per_host` of them to the same host."""
        self._all = BoundedSemaphore(at_once)
        self._per_host = per_host
        self._hosts: dict[str, tuple[BoundedSemaphore, int]] = {}  # (semaphore, threads inside or waiting)
        self._lock = Lock()

    @contextmanager
    def enter(self, host: str) -> Iterator[float]:
        """Wait for a slot; yields the seconds that this took.

        The host's slot is taken first, so that threads waiting for a slow host occupy no slot of the total.
        """
        begun = time.monotonic()
        with self._lock:
            gate, users = self._hosts.get(host, (BoundedSemaphore(self._per_host), 0))
            self._hosts[host] = (gate, users + 1)
        try:
            with gate, self._all:
                yield time.monotonic() - begun
        finally:
            with self._lock:
                gate, users = self._hosts.pop(host)
                if users > 1:
                    self._hosts[host] = (gate, users - 1)


# Download of the bytes at a web address, up to a limit, under the policy `ingest.limits.web`.
#
# We use httpcore: unlike the larger clients it follows no redirects and obeys no proxy variables by itself, and it lets
# us choose the address that a connection is opened to.


class HttpFailure(OSError):
    """The server did not return the file; `status` is the HTTP status, 0 if there was no response.

    Args:
        passing: whether a retry may succeed.
        wait: seconds until then, if the server stated them.
        silent: the host did not respond in time.
        untried: no request was sent.
    """

    def __init__(
        self,
        status: int,
        text: str,
        *,
        passing: bool = False,
        wait: float | None = None,
        silent: bool = False,
        untried: bool = False,
    ) -> None:
        super().__init__(text)
        self.status, self.passing, self.wait, self.silent, self.untried = status, passing, wait, silent, untried


@dataclass(eq=False)
class _Visit:
    """The hosts that an image's URL led to, with the seconds that each took over all attempts."""

    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def slowest(self) -> str:
        """The host that took longest: a fast host that redirects to a dead one is not to blame."""
        return max(self.seconds, key=lambda host: self.seconds[host])


def read_url(url: str, max_bytes: int, policy: WebPolicy) -> bytes:
    """The body at `url`, or its first `max_bytes` + 1 bytes: the rest is not downloaded.

    Raises:
        NotAllowed: the policy forbids the host, its address, or those of a redirect.
        HttpFailure: no response, or not the file, after all attempts. Messages contain no secrets of the URL.
    """
    key = (policy, os.getpid())  # a forked process must not share its parent's sockets
    with _LOCK:
        reader = _READERS.get(key) or _READERS.setdefault(key, _WebReader(policy))
    return reader.read(url, max_bytes)


class _WebReader:
    """The connections, gates and silent hosts of one process."""

    def __init__(self, policy: WebPolicy) -> None:
        self._policy = policy
        self._gates = Gates(policy.max_requests, policy.max_requests_per_host)
        self._silent = SilentHosts(policy.host_failures, policy.host_pause_seconds)
        self._deadline = Deadline()
        self._pool = httpcore.ConnectionPool(
            max_connections=policy.max_requests,
            keepalive_expiry=30,
            network_backend=CheckedBackend(policy, self._deadline),
        )

    def read(self, url: str, max_bytes: int) -> bytes:
        """Repeat attempts until one succeeds, all are used up, or the time for this image is over."""
        seconds = liveness.longest_wait(self._policy.total_seconds)
        self._deadline.at = time.monotonic() + seconds
        visit = _Visit()
        try:
            data = self._attempts(url, max_bytes, visit)
        except HttpFailure as failure:
            self._tell(visit, failure)
            if failure.passing and self._deadline.left <= 0:
                said = f"{failure} (the {seconds:.0f} s for an image are over: ingest.limits.web.total_seconds)"
                raise HttpFailure(failure.status, said) from failure
            raise
        else:
            self._tell(visit, None)
            return data
        finally:
            for host in visit.seconds:
                self._silent.given_up(host, visit)
            liveness.beat()  # heartbeat: as long as images finish or fail, this is not a stall

    def _attempts(self, url: str, max_bytes: int, visit: _Visit) -> bytes:
        for attempt in range(self._policy.retries + 1):
            try:
                return self._follow(url, max_bytes, visit)
            except HttpFailure as failure:
                wait = failure.wait
                if wait is None:
                    wait = min(_FIRST_WAIT * 2**attempt * random.uniform(0.5, 1.5), self._policy.max_wait_seconds)
                longest = min(self._policy.max_wait_seconds, self._deadline.left)
                if not failure.passing or attempt == self._policy.retries or wait > longest:
                    raise
            time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _tell(self, visit: _Visit, failure: HttpFailure | None) -> None:
        """Record for each host involved how this image ended."""
        if failure is not None and failure.untried:
            return
        unanswered = failure is not None and failure.passing and failure.status == 0
        took = sum(visit.seconds.values())
        if failure is not None and (failure.silent or (unanswered and took > self._policy.connect_seconds)):
            self._silent.failed(visit.slowest)
            return
        for host in visit.seconds:
            self._silent.answered(host)

    def _follow(self, url: str, max_bytes: int, visit: _Visit) -> bytes:
        """One attempt: the request, and those that its redirects need."""
        address = _address(url)
        for _ in range(self._policy.max_redirects + 1):
            check_host(address.host, self._policy)
            with self._gates.enter(address.host) as waited:
                self._deadline.at += waited  # waiting for a slot does not count as this image's time
                self._check_silent(address, visit)
                begun = time.monotonic()
                try:
                    answer = self._ask(address, max_bytes)
                finally:
                    visit.seconds[address.place] += time.monotonic() - begun
            if isinstance(answer, bytes):
                return answer
            target = _address(urljoin(f"{address.scheme}://{address.authority}{address.target}", answer))
            same = (target.scheme, target.authority) == (address.scheme, address.authority)
            address = replace(target, user=address.user if same else None)  # a password is for one host only
        raise HttpFailure(0, f"more than {self._policy.max_redirects} redirects (ingest.limits.web.max_redirects)")

    def _check_silent(self, address: Address, visit: _Visit) -> None:
        """Raises HttpFailure for a host that is currently skipped."""
        visit.seconds.setdefault(address.place, 0.0)
        refused = self._silent.refused(address.place, visit)
        if refused is not None:
            times, left = refused
            time.sleep(_REFUSAL)
            raise HttpFailure(
                0,
                f"{address.place} gave no answer to {times} images one after the other and is not asked for another "
                f"{left:.0f} s (ingest.limits.web.host_failures and .host_pause_seconds)",
                untried=True,
            )

    def _ask(self, address: Address, max_bytes: int) -> bytes | str:
        """The body, or the target of a redirect."""
        url = httpcore.URL(scheme=address.scheme, host=address.host, port=address.port, target=address.target.encode())
        waits = {"connect": self._policy.connect_seconds, "read": self._policy.read_seconds}
        waits |= {"write": self._policy.read_seconds}
        try:
            with self._pool.stream("GET", url, headers=self._headers(address), extensions={"timeout": waits}) as answer:
                if answer.status in _REDIRECTS:
                    return _target(answer)
                _check(answer)
                length = _header(answer, b"content-length")
                if length.isdigit() and int(length) > max_bytes:
                    return bytes(max_bytes + 1)  # long enough to be reported as too large
                return _body(answer, max_bytes)
        except httpcore.TimeoutException as error:
            raise HttpFailure(
                0, f"no answer in time ({type(error).__name__}; ingest.limits.web)", passing=True, silent=True
            ) from error
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            forged = isinstance(error.__cause__ or error.__context__, ssl.SSLCertVerificationError)
            raise HttpFailure(0, f"{type(error).__name__}: {error}", passing=not forged) from error

    def _headers(self, address: Address) -> list[tuple[str, str]]:
        headers = [
            ("Host", address.authority),
            ("User-Agent", self._policy.user_agent),
            ("Accept", "image/*,*/*;q=0.5"),
            ("Accept-Encoding", "identity"),  # no compression: it could expand to gigabytes
        ]
        if address.user is not None:
            token = base64.b64encode(":".join(address.user).encode()).decode()
            headers.append(("Authorization", f"Basic {token}"))
        return headers


def _address(url: str) -> Address:
    try:
        return Address.of(url)
    except (ValueError, UnicodeError) as error:  # also for redirects: file:///etc/passwd must not be read
        raise NotAllowed("not an http:// or https:// URL with a host") from error


def _target(answer: httpcore.Response) -> str:
    """The target of a redirect: unencoded bytes are read as UTF-8, as browsers do, else as latin-1."""
    given = next((value for key, value in answer.headers if key.lower() == b"location"), b"").strip()
    if not given:
        raise HttpFailure(answer.status, f"HTTP status {answer.status}, a redirect that does not say where to")
    try:
        return given.decode()
    except UnicodeDecodeError:
        return given.decode("latin-1")


def _header(answer: httpcore.Response, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in answer.headers if key.lower() == name), "")


def _check(answer: httpcore.Response) -> None:
    """Raises HttpFailure unless the response is the file."""
    if 200 <= answer.status < 300:
        encoding = _header(answer, b"content-encoding").lower()
        if encoding not in {"", "identity"}:
            raise HttpFailure(answer.status, f"the server compresses what was asked for uncompressed ({encoding[:20]})")
        return
    wait = _seconds(_header(answer, b"retry-after"))
    raise HttpFailure(answer.status, f"HTTP status {answer.status}", passing=answer.status in _PASSING, wait=wait)


def _body(answer: httpcore.Response, max_bytes: int) -> bytes:
    data = bytearray()
    for piece in answer.iter_stream():
        data += piece
        if len(data) > max_bytes:
            break
    return bytes(data[: max_bytes + 1])


def _seconds(retry_after: str) -> float | None:
    """Seconds from now given by a Retry-After header, as a number or a date (RFC 9110, 10.2.3)."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):  # not a date, or one out of range
        return None
