"""The image's shells without Docker: a copy of this Debian in namespaces of its own, with the Dockerfile's instructions
carried out in it, and a head started in it by the command lines of `ray up`.

    sudo .venv/bin/python -m benchmarks.scale.image_environment   # Debian 12 with unshare; a minute; leaves no trace

In the place of /opt/venv stands the Python that runs this. Prints what each step says, and ends where one fails. Not
shown: apt-get, the installation of the dependencies, Docker itself.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from ray.autoscaler._private.command_runner import _with_interactive

from benchmarks import harness

INSIDE = "FGVR_INSIDE_NAMESPACE"
SYSTEM = ("usr", "bin", "sbin", "lib", "lib64")
ETC = ("shadow", "profile", "bash.bashrc", "skel", "ld.so.cache", "login.defs", "nsswitch.conf", "ssl")


def sh(command: str) -> None:
    """Run a shell command that must succeed."""
    subprocess.run(["sh", "-ec", command], check=True)


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions from the copy of the whole project on."""
    lines = (harness.ROOT / "cluster" / "Dockerfile").read_text().splitlines()
    joined = re.sub(r"\\\n\s*", "", "\n".join(line for line in lines if not line.startswith("#"))).splitlines()
    parsed = [tuple(line.split(maxsplit=1)) for line in joined if line.strip()]
    return parsed[parsed.index(("COPY", ". .")) :]  # type: ignore[return-value]


def make_root(root: Path) -> None:
    """This machine's system read-only, an /etc of its own, and this Python as /opt/venv."""
    for name in SYSTEM:
        here = Path("/") / name
        if here.is_symlink():
            (root / name).symlink_to(here.readlink())
        elif here.exists():
            (root / name).mkdir()
            sh(f"mount --rbind -o ro /{name} {root}/{name}")
    for name in ("etc/profile.d", "opt/venv", "opt/fgvr", "tmp", "proc", "dev", "home", "root"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    sh(f"mount -t proc proc {root}/proc; mount --rbind /dev {root}/dev")
    sh(f"mount -t tmpfs -o size=8g tmpfs {root / 'dev' / 'shm'}")  # --shm-size
    for name in ETC:
        if (Path("/etc") / name).exists():
            sh(f"cp -a /etc/{name} {root}/etc/")
    for name in ("passwd", "group"):  # the system's own: the image is made of a Debian without people
        lines = (Path("/etc") / name).read_text().splitlines(keepends=True)
        system = [line for line in lines if int(line.split(":")[2]) not in range(1000, 60000)]
        (root / "etc" / name).write_text("".join(system))
    (root / "etc" / "hosts").write_text("127.0.0.1 localhost\n")
    python, environment = Path(sys.base_prefix), Path(sys.prefix).resolve()
    sh(f"mount --bind -o ro {environment} {root}/opt/venv")
    for place in (python, environment):  # scripts of the environment name it by its path
        if not place.is_relative_to("/usr"):
            (root / place.relative_to("/")).mkdir(parents=True, exist_ok=True)
            sh(f"mount --bind -o ro {place} {root}{place}")
    sh(f"git -C {harness.ROOT} archive HEAD | tar -x -C {root}/opt/fgvr")


class Image:
    """Runs commands in the root folder, as the image's user and environment of that moment."""

    def __init__(self, root: Path) -> None:
        self.root, self.user = root, "0"
        self.environment = {"PATH": "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"}

    def run(self, words: list[str], environment: dict[str, str] | None = None) -> None:
        """Run words as the user and in the environment of now, or in another environment."""
        print(f"\n[{self.user}] {shlex.join(words)[:300]}", flush=True)
        subprocess.run(
            [
                "/usr/sbin/chroot",
                f"--userspec={self.user}:{self.user}",
                str(self.root),
                "env",
                "-C",
                "/opt/fgvr",
                *words,
            ],
            env=self.environment if environment is None else environment,
            check=True,
        )

    def build(self) -> None:
        """Carry out the Dockerfile's instructions."""
        for kind, rest in instructions():
            if kind == "RUN":
                self.run(["sh", "-ec", rest])
            elif kind == "ENV":
                pairs = dict(pair.split("=", 1) for pair in shlex.split(rest))
                path = self.environment["PATH"]
                self.environment |= {name: value.replace("$PATH", path) for name, value in pairs.items()}
            elif kind == "USER":
                self.user = rest

    def ray_up(self, command: str) -> None:
        """Run a command like Ray's command runner in the container."""
        command = command.replace("~/", self.environment["HOME"] + "/")
        self.run(["/bin/bash", "-c", " ".join(_with_interactive(command))])


def main() -> None:
    """Command line: see the module's docstring."""
    harness.parser(__doc__, results=False).parse_args()
    if INSIDE not in os.environ:
        apart = ["unshare", "--mount", "--net", "--pid", "--fork", "--propagation", "private"]
        command = [*apart, *harness.this_command()]
        sys.exit(subprocess.run(command, env={**os.environ, INSIDE: "1"}, check=False).returncode)
    sh("ip link set lo up 2>/dev/null || ifconfig lo up")
    with tempfile.TemporaryDirectory() as folder:
        sh(f"mount -t tmpfs tmpfs {folder}")
        image = Image(Path(folder))
        try:
            make_root(image.root)
            image.build()
            cluster = yaml.safe_load((harness.ROOT / "ray_cluster.yaml").read_text())
            image.ray_up("ray get-auth-token --generate >/dev/null && chmod 600 ~/.ray/auth_token && ls -l ~/.ray")
            for command in cluster["head_start_ray_commands"]:
                # The autoscaler would ask AWS; the address is this namespace's only one.
                image.ray_up(re.sub(r" --autoscaling-config=\S+", " --node-ip-address=127.0.0.1", command))
            image.ray_up('python -c "import locale, time; print(locale.getpreferredencoding(), time.tzname[0])"')
            image.ray_up("ray status")
            image.ray_up("ray stop")
        finally:
            sh(f"umount --recursive --lazy {folder}")


if __name__ == "__main__":
    main()
