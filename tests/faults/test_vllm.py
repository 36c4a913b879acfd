"""The real engine: vLLM inside Ray actors, killed in the middle of a stage, and asked for more memory than there is."""

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.e2e import runs

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


def arguments(folder: Path, **more: str) -> list[str]:
    drawings = str(folder.parent / "drawings")  # the same for both runs: paths are part of the samples table
    return runs.flags(str(folder), label__workers__rows_per_part="8", ingest__source__draw_to=drawings, **more)


def parts_in(folder: Path) -> int:
    return len(list((folder / "tiny" / "tables" / "answers").glob("*/part-*.parquet")))


def kill_the_engine(folder: Path, driver: subprocess.Popen[bytes]) -> int:
    """SIGKILL the process of the actor as soon as two parts are there; returns how many there were."""
    end = time.monotonic() + 600
    while parts_in(folder) < 2:
        assert driver.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    found = [
        process
        for process in psutil.Process(driver.pid).children(recursive=True)
        if "PartActor" in " ".join(process.cmdline())
    ]
    assert found
    for process in found:
        process.kill()
    return parts_in(folder)


def test_a_vllm_engine_is_killed_in_the_middle_of_a_stage(tmp_path: Path, seen) -> None:
    whole, hurt = tmp_path / "whole", tmp_path / "hurt"
    runs.run("label", arguments(whole))
    command = [sys.executable, str(runs.ROOT / "pipelines" / "label.py"), *arguments(hurt)]
    start = time.monotonic()
    with (tmp_path / "log").open("wb") as log:
        driver = subprocess.Popen(command, env=runs.environment(), cwd=runs.ROOT, stdout=log, stderr=log)
    try:
        before = kill_the_engine(hurt, driver)
        assert driver.wait(timeout=600) == 0, (tmp_path / "log").read_text()[-4000:]
    finally:
        if driver.poll() is None:
            driver.kill()
    seconds = time.monotonic() - start
    assert before < parts_in(hurt) == 9
    for name in ("answers", "labels"):
        assert runs.rows(str(hurt), name).equals(runs.rows(str(whole), name))
    spaces = [Path(runs.table(str(folder), "labels").path("label_space.json")).read_bytes() for folder in (whole, hurt)]
    assert json.loads(spaces[0]) == json.loads(spaces[1])
    seen(
        "SIGKILL of a vLLM engine in the middle of label",
        f"replaced after {before} of 9 parts ({seconds:.0f} s); same tables",
    )


def test_a_vllm_engine_that_cannot_fit_ends_in_a_sentence(tmp_path: Path, seen) -> None:
    command = [
        sys.executable,
        str(runs.ROOT / "pipelines" / "label.py"),
        *arguments(tmp_path, mllm__cpu_kv_cache_gb="3000"),
    ]
    done = subprocess.run(
        command, env=runs.environment(), cwd=runs.ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode != 0
    assert "mllm.cpu_kv_cache_gb" in done.stderr
    assert "Traceback" not in done.stderr
    seen("vLLM's key-value cache larger than the machine", "refused with the sizes and the field to lower")
