"""Tokens and ports of the Ray sessions and clusters that this project starts."""

import json
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.ray_access import make_token, prepare_token, token_file

ROOT = Path(__file__).parents[2]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder without a token, and nothing about tokens in the environment."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


def test_a_token_is_made_for_its_owner_alone_and_kept(home: Path) -> None:
    previous = os.umask(0)  # the worst one
    try:
        prepare_token()
    finally:
        os.umask(previous)
    file = home / ".ray" / "auth_token"
    assert token_file() == file
    assert (mode(file), mode(file.parent)) == (0o600, 0o700)
    token = file.read_text()
    assert len(bytes.fromhex(token)) == 32
    prepare_token()
    make_token(file)
    assert file.read_text() == token
    assert [found.name for found in file.parent.iterdir()] == ["auth_token"]


def test_a_token_that_others_could_read_is_closed(home: Path) -> None:
    file = home / ".ray" / "auth_token"
    file.parent.mkdir()
    file.write_text("0" * 64)
    file.chmod(0o644)  # as Ray makes it
    prepare_token()
    assert (mode(file), file.read_text()) == (0o600, "0" * 64)


def test_tokens_of_the_environment_are_left_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "f" * 64)
    prepare_token()
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    prepare_token()
    assert not (home / ".ray").exists()
    assert "can run programs as you" in caplog.text


def test_without_a_place_for_the_file_the_session_has_a_token_of_its_own(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / ".ray").write_text("a file where the folder should be")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")
    prepare_token()
    assert len(bytes.fromhex(os.environ["RAY_AUTH_TOKEN"])) == 32


# A session as a run opens it; says where it is, which of its processes listen where, and waits.
SESSION = """
import json, sys
import psutil
from cluster.session import ray_session
from fgvr.config.run import Cluster

with ray_session(Cluster(num_cpus=1)):
    import ray
    names = ("gcs_server", "raylet", "ray::", "autoscaler")
    own = ray._private.worker._global_node.get_session_dir_path()
    def ours(process):
        try:
            return any(own in " ".join(each.cmdline()) for each in (process, *process.parents()))
        except psutil.Error:  # another process of the machine that has just ended
            return False
    pids = {process.pid for process in psutil.process_iter() if ours(process)} | {psutil.Process().pid}
    ports = [c.laddr.ip for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.pid in pids]
    print(json.dumps({"address": ray.get_runtime_context().gcs_address, "listening": ports}), flush=True)
    sys.stdin.readline()
"""
JOIN = """
import sys
import ray
from cluster.ray_private import loopback_kept
with loopback_kept():
    ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
print("joined", ray.cluster_resources()["CPU"])
"""


def python(script: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a script as a stranger would: without this process's tokens."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**kept, "PYTHONPATH": str(ROOT), **more},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_session_of_this_machine_listens_here_alone_and_asks_for_its_token(tmp_path: Path) -> None:
    owner, stranger = tmp_path / "owner", tmp_path / "stranger"
    owner.mkdir()
    stranger.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    session = subprocess.Popen(
        [sys.executable, "-c", SESSION],
        env={**kept, "PYTHONPATH": str(ROOT), "HOME": str(owner)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert session.stdout is not None
        facts = json.loads(session.stdout.readline())
        assert mode(owner / ".ray" / "auth_token") == 0o600
        assert len(facts["listening"]) >= 6
        assert {address.removeprefix("::ffff:") for address in facts["listening"]} == {"127.0.0.1"}
        (stranger / "wrong").write_text("0" * 64)
        known = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(owner / ".ray" / "auth_token")}
        guessed = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(stranger / "wrong")}
        disabled = {"RAY_AUTH_MODE": "disabled"}
        with ThreadPoolExecutor(3) as pool:  # at once: a refused one tries again for a while
            joined, *others = pool.map(
                lambda env: python(JOIN, facts["address"], HOME=str(stranger), **env), (known, guessed, disabled)
            )
        assert joined.stdout.startswith("joined 1")
        for refused in others:
            assert refused.returncode != 0
            assert "joined" not in refused.stdout
            assert "token" in (refused.stdout + refused.stderr).lower()
    finally:
        session.communicate("\n", timeout=60)
    assert session.returncode == 0
