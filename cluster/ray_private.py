"""All that the project uses of Ray beyond its public API, in one file (tests/test_private_apis.py).

Seen with Ray 2.60. Each use says what it is for, and what happens where a later version has it no more: either an
`UnknownRay` that names it and the version, or less comfort, never less safety. The parts of Ray are looked up when they
are used, so that a version without one of them fails only there.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fgvr.errors import UserError

SEEN = "2.60"
CHATTY = {
    # Says at every start that token authentication is on, which docs/cluster.md explains.
    "ray._private.authentication.authentication_token_setup": logging.ERROR,
}
"""Loggers below Ray's public names, and what they may say. Where a later version has others it says more."""
NODE_ADDRESS, METRICS_PORT = "_node_ip_address", "_metrics_export_port"
"""Arguments of `ray.init` that `ray start` has as --node-ip-address and --metrics-export-port. A version without them
refuses to start, by their name."""

log = logging.getLogger(__name__)


class UnknownRay(UserError, RuntimeError):
    """A version of Ray that lacks what is used here."""


class Board:
    """The key-value store of Ray's head, which every process of a session reaches: for signs of life and last words.

    Ray's public ways need an actor, which needs a core and a node of its own, and dies with it: a worker without a
    place could not say that it has none.
    """

    def __init__(self, namespace: bytes) -> None:
        """Keys of two namespaces are apart."""
        self._namespace = namespace

    def put(self, key: str, text: str) -> None:
        """Keep a text; raises RayError, RuntimeError or OSError where the head does not answer."""
        _part("ray.experimental.internal_kv", "_internal_kv_put")(
            key, text.encode(), overwrite=True, namespace=self._namespace
        )

    def keys(self, prefix: str) -> list[str]:
        """Those that begin so."""
        found = _part("ray.experimental.internal_kv", "_internal_kv_list")(prefix, namespace=self._namespace)
        return [key.decode() for key in found]

    def texts(self, keys: Sequence[str]) -> dict[str, str]:
        """Of those that are there, in one request: n workers that ask for each one's would else send n²."""
        if not keys:
            return {}
        head = _part("ray.experimental.internal_kv", "internal_kv_get_gcs_client")()
        found = head.internal_kv_multi_get([key.encode() for key in keys], self._namespace)
        return {key.decode(): value.decode() for key, value in found.items()}

    def delete(self, prefix: str) -> None:
        """Drop all keys that begin so."""
        _part("ray.experimental.internal_kv", "_internal_kv_del")(prefix, del_by_prefix=True, namespace=self._namespace)


def start_no_other() -> None:
    """Calls after the end of a session are errors from now on.

    Else the thread of a stage that was stopped starts another Ray when this one is gone: all cores, open to others.
    Raises UnknownRay: a Ray that nobody asked for must not be started.
    """
    module = "ray._private.auto_init_hook"
    _part(module, "enable_auto_connect")
    importlib.import_module(module).enable_auto_connect = False  # type: ignore[attr-defined]


@contextmanager
def loopback_kept() -> Iterator[None]:
    """Within the block Ray takes 127.0.0.1 as the address of a node that it starts, and so listens there alone.

    Ray would put this machine's own address in its place, for the sake of nodes on others. There is no setting for it,
    so the function that does it is replaced; tests/cluster/test_ray_access.py looks at the ports. Whoever joins such a
    session from another process has to do so within this block, too. Raises UnknownRay where there is no such function:
    the session would be open to others (`cluster.loopback: false` allows that).
    """
    module, name = "ray._private.services", "resolve_ip_for_localhost"
    replaced, services = _part(module, name), importlib.import_module(module)
    setattr(services, name, lambda host: host)
    try:
        yield
    finally:
        setattr(services, name, replaced)


def in_worker() -> bool:
    """Whether Ray started this process. Where a later version does not tell: no, as for a driver."""
    import ray

    if not ray.is_initialized():
        return False
    worker = getattr(ray.get_runtime_context(), "worker", None)
    return worker is not None and getattr(worker, "mode", None) == getattr(ray, "WORKER_MODE", object())


def _part(module: str, name: str) -> Any:
    """`name` of a module of Ray; raises UnknownRay where this version has none."""
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        import ray

        raise UnknownRay(
            f"Ray {ray.__version__} has no {module}.{name}, which is used here (seen with {SEEN}): {error}. Install Ray"
            f" {SEEN}"
        ) from error
