"""Available memory as the machine and its control groups tell it."""

from pathlib import Path

import pytest

from fgvr.mllm.vllm_engine.memory import ENGINE_BASE_BYTES, GIB, NotEnoughMemory, available_bytes, check_engine_fits


def machine(tmp_path: Path, cgroup: str) -> tuple[Path, Path]:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: 16777216 kB\nMemAvailable: {8 * 2**20} kB\n")
    (proc / "self" / "cgroup").write_text(cgroup)
    return proc, groups


def limits(folder: Path, names: tuple[str, str], maximum: str, used: int, reclaimable: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{maximum}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {reclaimable}\n")


V1, V2 = ("memory.limit_in_bytes", "memory.usage_in_bytes"), ("memory.max", "memory.current")


def test_without_control_groups_the_machine_counts(tmp_path: Path) -> None:
    assert available_bytes(*machine(tmp_path, "0::/\n")) == 8 * GIB


def test_the_tightest_group_counts(tmp_path: Path) -> None:
    proc, groups = machine(tmp_path, "0::/pod/job\n")
    limits(groups / "pod", V2, str(4 * GIB), 3 * GIB, GIB // 2)  # 4 − 3 + 0.5
    limits(groups / "pod" / "job", V2, "max", 3 * GIB, 0)
    assert available_bytes(proc, groups) == int(1.5 * GIB)


def test_inside_a_container_the_root_is_the_group(tmp_path: Path) -> None:
    proc, groups = machine(tmp_path, "0::/not/visible/here\n")
    limits(groups, V2, str(2 * GIB), GIB, 0)
    assert available_bytes(proc, groups) == GIB


def test_version_one(tmp_path: Path) -> None:
    proc, groups = machine(tmp_path, "5:devices:/\n4:memory:/box\n0::/\n")
    limits(groups / "memory", V1, str(2**63 - 4096), 5 * GIB, 0)
    limits(groups / "memory" / "box", V1, str(3 * GIB), GIB, 0)
    assert available_bytes(proc, groups) == 2 * GIB


def test_a_system_that_does_not_say(tmp_path: Path) -> None:
    assert available_bytes(tmp_path / "none", tmp_path / "none") is None
    check_engine_fits(10**15, 10**15, None)


def test_too_little_memory_names_numbers_and_fields() -> None:
    check_engine_fits(GIB, GIB, 2 * GIB + ENGINE_BASE_BYTES)
    with pytest.raises(
        NotEnoughMemory, match=r"needs about 18\.2 GiB \(weights 16\.0, .*cpu_kv_cache_gb.* 8\.0 GiB are"
    ):
        check_engine_fits(16 * GIB, GIB, 8 * GIB)


def test_this_machine_has_some() -> None:
    found = available_bytes()
    assert found is None or found > 0
