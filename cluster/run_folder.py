"""Checks that a run may work in a folder: it must be empty or hold a run, and never other files of a user."""

from __future__ import annotations

import json
import logging
import re
import uuid
from collections.abc import Callable, Mapping

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster import budget, lease, outbox, run_record, tracking, tracking_store
from cluster.run_record import Session
from fgvr import storage
from fgvr.config.yaml_text import YamlError, read_yaml
from fgvr.errors import UserError
from fgvr.mllm.openai_server.cache_segments import IN_RUN, INDEX, SEGMENT
from fgvr.text_files import decoded

log = logging.getLogger(__name__)


CONFIG_FILE = "config.yaml"
PROBE = "probe"
_JSON = frozenset({run_record.FILE, tracking.RUN_FILE, budget.FILE, "rates.json"})
_FOLDERS = {lease.FOLDER: (".json",), outbox.FOLDER: (".json",), IN_RUN: (SEGMENT, INDEX)}
"""What a run folder without a config may hold, with the endings of the files in its folders: its run was interrupted
early, the config was removed, or a plan was probed for a run to come. A name alone proves nothing."""
_FIELDS = {"run": ("folder", "max_error_share", "retry_failed"), "ingest": ("source", "limits"), "mllm": ("kind",)}
"""Fields by which a run's config, which has them all, differs from one that a person wrote."""
_FINGERPRINT = re.compile(r"[0-9a-f]{16}")

SECONDS = 60.0
"""Time limit for all nodes to answer; a node that is too busy is left out."""


class RunFolderError(UserError):
    """The run folder holds other files."""


def check_run_folder(folder: str) -> None:
    """Raise RunFolderError where `folder` is neither empty nor a run's: a run writes and removes files there."""
    if is_run(folder):
        return
    others = _others_than_a_runs(folder)
    if others:
        raise RunFolderError(
            f"run.folder, run.name: {folder} holds something that is no run ({min(others)} …), and a run would write "
            "into it; name another run.name or run.folder"
        )


def is_run(folder: str) -> bool:
    """Whether a folder holds the config, the record or the tables of a run."""
    return _is_config(folder) or Session.read(folder) is not None or _has_tables(folder)


def _is_config(folder: str) -> bool:
    """Whether a folder holds a config as runs save it: complete, and without a comment."""
    try:
        text = decoded(storage.read_bytes(storage.join(folder, CONFIG_FILE)))
        tree = read_yaml(text)
    except (OSError, YamlError, UnicodeDecodeError):
        return False
    if not isinstance(tree, dict) or text.lstrip().startswith("#"):
        return False
    parts = {part: tree.get(part) for part in _FIELDS}
    return all(isinstance(value, dict) and set(_FIELDS[part]) <= set(value) for part, value in parts.items())


def _others_than_a_runs(folder: str) -> list[str]:
    """Visible entries of a folder that no run has left there."""
    files, folders = storage.list_entries(folder)
    foreign = [name for name in files if not _is_left(storage.join(folder, name), name)]
    return foreign + [name for name in folders if not _is_left_folder(storage.join(folder, name), name)]


def _is_left(file: str, name: str) -> bool:
    if name == tracking_store.FILE:
        return storage.read_bytes(file, 0, 6) in {b"", b"SQLite"}
    if name.endswith(".lock"):
        return not storage.read_bytes(file, 0, 1)
    if name not in _JSON:
        return False
    try:
        return isinstance(json.loads(storage.read_bytes(file)), dict)
    except ValueError:
        return False


def _is_left_folder(folder: str, name: str) -> bool:
    if name == PROBE:  # a small run of its own
        return is_run(folder) or not _others_than_a_runs(folder)
    endings = _FOLDERS.get(name)
    if endings is None:
        return False
    files, folders = storage.list_entries(folder)
    return not folders and all(file.endswith(endings) for file in files)


def _has_tables(folder: str) -> bool:
    tables = storage.join(folder, "tables")
    return any(
        _FINGERPRINT.fullmatch(version)
        for name in storage.list_entries(tables)[1]
        for version in storage.list_entries(storage.join(tables, name))[1]
    )


# Whether every node sees the run folder: for a local path, only the nodes themselves can tell.


Ask = Callable[[Mapping[str, str], str, str], Mapping[str, str]]
"""Asks nodes (Ray's id → readable name) about a file and its mark: returns what is wrong per node, empty where nothing
is. Nodes that do not answer are left out."""


class NotShared(UserError):
    """Some nodes of the cluster do not see the run folder."""


def check_seen(folder: str, *, nodes: Mapping[str, str] | None = None, ask: Ask | None = None) -> None:
    """Write a file to the run folder, let every other node read it, and remove it again.

    Nodes that join later are not checked. An object store is the same place for all nodes, so nothing is checked.

    Args:
        folder: the run folder.
        nodes: the nodes to ask; None: those of the session except this one.
        ask: the function that asks them; None: through Ray.

    Raises:
        NotShared: a node does not have this file, or has another one of this name.
    """
    if not storage.is_local(folder):
        return
    nodes = _others() if nodes is None else nodes
    if not nodes:
        return
    mark = uuid.uuid4().hex
    file = storage.join(folder, f".seen-{mark}")
    storage.write_bytes(file, mark.encode())
    try:
        answers = (ask or _by_ray)(nodes, file, mark)
    finally:
        storage.remove(file)
    blind = {nodes[node]: said for node, said in answers.items() if said}
    if blind:
        name, said = next(iter(blind.items()))
        raise NotShared(
            f"run.folder: {folder} is not seen by {len(blind)} of the cluster's {len(nodes)} other nodes (on {name}:"
            f" {said}). All nodes must share it: name a folder on a disk that is mounted at the same path everywhere,"
            " or an object store (--run.folder s3://bucket/runs)"
        )
    if silent := sorted(set(nodes.values()) - {nodes[node] for node in answers}):
        log.warning("%s did not say within a minute whether the run's folder is seen there", ", ".join(silent))


def _others() -> dict[str, str]:
    here = ray.get_runtime_context().get_node_id()
    return {
        node["NodeID"]: str(node.get("NodeManagerHostname") or node["NodeManagerAddress"])
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] != here
    }


def _by_ray(nodes: Mapping[str, str], file: str, mark: str) -> dict[str, str]:
    look = ray.remote(num_cpus=0, max_retries=1)(look_at)
    asked = {
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(file, mark): node
        for node in nodes
    }
    ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=SECONDS)
    for task in late:
        ray.cancel(task, force=True)
    answers: dict[str, str] = {}
    for task in ready:
        try:
            answers[asked[task]] = ray.get(task)
        except (
            ray.exceptions.RayError
        ) as error:  # the node is gone, or cannot start a process: not what is checked here
            log.debug("%s: %s", nodes[asked[task]], error)
    return answers


def look_at(file: str, mark: str) -> str:
    """What is wrong with a file that the driver has just written, as seen from this node; empty where nothing is."""
    try:
        found = storage.read_bytes(file).decode(errors="replace")
    except OSError as error:
        return error.strerror or type(error).__name__
    return "" if found == mark else "there is another folder of this name"
