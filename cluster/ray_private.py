"""Everything that the project uses of Ray's private API, in one file (tests/test_private_apis.py).

Checked with Ray 2.60. Each use says its purpose, and what happens if a later version lacks it: either an `UnknownRay`
that names it and the version, or less comfort, never less safety. Parts of Ray are looked up when they are used, so a
version without one of them fails only there.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from fgvr.errors import UserError

SEEN = "2.60"
CHATTY = {
    # It logs at every start that token authentication is on, which docs/cluster.md explains.
    "ray._private.authentication.authentication_token_setup": logging.ERROR,
}
"""Ray's private loggers, and the level of each. A later version with other loggers would only log more."""
NODE_ADDRESS, METRICS_PORT = "_node_ip_address", "_metrics_export_port"
"""Arguments of `ray.init` for the options --node-ip-address and --metrics-export-port of `ray start`. A version without
them refuses to start and names them."""

log = logging.getLogger(__name__)


class UnknownRay(UserError, RuntimeError):
    """This version of Ray lacks a private part that is used here."""


class Board:
    """The key-value store of Ray's head, which every process of a session can reach: for heartbeats and last words.

    Ray's public API would need an actor, which needs a core on some node and dies with that node: a worker that is not
    placed could not report that.
    """

    def __init__(self, namespace: bytes) -> None:
        """Open the store under a namespace, which separates its keys from others."""
        self._namespace = namespace

    def put(self, key: str, text: str) -> None:
        """Store a text; raises RayError, RuntimeError or OSError where the head does not answer."""
        _part("ray.experimental.internal_kv", "_internal_kv_put")(
            key, text.encode(), overwrite=True, namespace=self._namespace
        )

    def keys(self, prefix: str) -> list[str]:
        """All keys with this prefix."""
        found = _part("ray.experimental.internal_kv", "_internal_kv_list")(prefix, namespace=self._namespace)
        return [key.decode() for key in found]

    def texts(self, keys: Sequence[str]) -> dict[str, str]:
        """The texts of existing keys, in one request, so that n workers do not cause n² requests."""
        if not keys:
            return {}
        head = _part("ray.experimental.internal_kv", "internal_kv_get_gcs_client")()
        found = head.internal_kv_multi_get([key.encode() for key in keys], self._namespace)
        return {key.decode(): value.decode() for key, value in found.items()}

    def delete(self, prefix: str) -> None:
        """Delete all keys with this prefix."""
        _part("ray.experimental.internal_kv", "_internal_kv_del")(prefix, del_by_prefix=True, namespace=self._namespace)


def start_no_other() -> None:
    """Make calls after the end of a session raise an error.

    Otherwise the thread of a stopped stage would start another Ray when this one has ended: with all cores, and open to
    others. Raises UnknownRay where this cannot be prevented.
    """
    module = "ray._private.auto_init_hook"
    _part(module, "enable_auto_connect")
    importlib.import_module(module).enable_auto_connect = False  # type: ignore[attr-defined]


@contextmanager
def loopback_kept() -> Iterator[None]:
    """Within the block, Ray accepts 127.0.0.1 as the address of a node that it starts, and so listens only there.

    Ray would replace it by this machine's network address, for nodes on other machines. No setting prevents this, so
    the function that does it is replaced; tests/cluster/test_ray_access.py checks the ports. A process that joins such
    a session must do so within this block, too. Raises UnknownRay where there is no such function, since the session
    would be open to others (`cluster.loopback: false` allows that).
    """
    module, name = "ray._private.services", "resolve_ip_for_localhost"
    replaced, services = _part(module, name), importlib.import_module(module)
    setattr(services, name, lambda host: host)
    try:
        yield
    finally:
        setattr(services, name, replaced)


@contextmanager
def in_groups_of_their_own() -> Iterator[None]:
    """Within the block, each process of Ray that is started leads a process group of its own.

    Whoever ends a whole group (`timeout`, a scheduler, a container's init) would otherwise end Ray together with the
    driver, which then waits a minute for Ray and is ended by it before it has given its run back. Ray ends with its
    driver however that ends (Linux's parent-death signal). Raises UnknownRay where Ray starts processes in another way.
    """
    module, name = "ray._private.services", "ConsolePopen"
    replaced, services = _part(module, name), importlib.import_module(module)
    setattr(services, name, partial(replaced, process_group=0))
    try:
        yield
    finally:
        setattr(services, name, replaced)


def in_worker() -> bool:
    """Whether Ray started this process. False, as for a driver, where a later version does not tell."""
    import ray

    if not ray.is_initialized():
        return False
    worker = getattr(ray.get_runtime_context(), "worker", None)
    return worker is not None and getattr(worker, "mode", None) == getattr(ray, "WORKER_MODE", object())


def _part(module: str, name: str) -> Any:
    """`name` from a module of Ray; raises UnknownRay where this version lacks it."""
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        import ray

        raise UnknownRay(
            f"Ray {ray.__version__} has no {module}.{name}, which is used here (seen with {SEEN}): {error}. Install Ray"
            f" {SEEN}"
        ) from error
