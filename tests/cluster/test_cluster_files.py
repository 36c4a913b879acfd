"""The image, `ray up`'s file and KubeRay's, read by what reads them, as far as that runs without Docker or a cloud."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import ray.scripts.scripts
import yaml
from ray.autoscaler._private.command_runner import _with_interactive
from ray.autoscaler._private.docker import with_docker_exec
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import _get_default_config, prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import CloudResourceMonitor
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.instance_manager_pb2 import Instance, InstanceUpdateEvent

ROOT = Path(__file__).parents[2]
DEBIAN_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"
"""What /etc/profile of Debian 12 sets for everybody but root, whatever PATH was before."""


def dockerfile() -> list[tuple[str, str]]:
    """Its instructions with their arguments."""
    lines = [line for line in (ROOT / "cluster" / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]  # type: ignore[misc]


def image_environment() -> dict[str, str]:
    pairs = shlex.split(" ".join(rest for kind, rest in dockerfile() if kind == "ENV"))
    return dict(pair.split("=", 1) for pair in pairs)


def ray_up() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())


def ray_cluster_of_the_job() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster" / "rayjob.yaml").read_text())["spec"]["rayClusterSpec"]


def login_file(folder: Path) -> Path:
    """What the image's build writes for login shells, written by the same command to another place."""
    (command,) = [rest for kind, rest in dockerfile() if kind == "RUN" and "/etc/profile.d/" in rest]
    target = folder / "profile.sh"
    place = re.search(r"/etc/profile\.d/\S+", command)
    assert place is not None
    assert place[0].endswith(".sh")  # Debian's /etc/profile reads no others
    subprocess.run(["sh", "-c", command.replace(place[0], str(target))], check=True)
    return target


def in_a_login_shell(folder: Path, command: str, *, written: bool) -> subprocess.CompletedProcess[str]:
    """`command` as `ray up` runs it in a container whose /etc/profile sets PATH anew and reads what the image wrote.

    Args:
        folder: becomes HOME, with a `ray` and a `python` of its own in the place of /opt/venv.
        command: of the cluster file.
        written: whether the image's file for login shells is there.
    """
    venv = folder / "venv" / "bin"
    venv.mkdir(parents=True, exist_ok=True)
    for name in ("python", "ray"):
        (venv / name).write_text(f'#!/bin/sh\necho "{name} of the image" "$@"\n')
        (venv / name).chmod(0o755)
    profile = f"PATH={DEBIAN_PATH}\nexport PATH\n"
    if written:
        profile += login_file(folder).read_text().replace("/opt/venv/bin", str(venv))
    (folder / ".bash_profile").write_text(profile)  # read after this machine's own /etc/profile
    (folder / ".bashrc").write_text("")
    inside = " ".join(_with_interactive(command))
    (whole,) = with_docker_exec([inside], container_name="fgvr", docker_cmd="docker", with_interactive=True)
    words = shlex.split(whole)
    assert words[:4] == ["docker", "exec", "-it", "fgvr"]
    environment = {"HOME": str(folder), "PATH": f"{venv}:{DEBIAN_PATH}", "PYTHONPATH": str(ROOT)}  # as ENV sets it
    return subprocess.run(words[4:], env=environment, capture_output=True, text=True, timeout=60, check=False)


def start_options(command: str) -> dict[str, Any]:
    """The options of the `ray start` in a shell command, as Ray's own parser reads them; unknown ones are errors."""
    words = shlex.split(command.replace("$RAY_HEAD_IP", "10.0.0.1"))
    arguments = words[words.index("start") + 1 :]
    return ray.scripts.scripts.start.make_context("start", arguments).params


def test_login_shells_find_ray_where_etc_profile_has_set_path_anew(tmp_path: Path) -> None:
    lost = in_a_login_shell(tmp_path, "ray --version", written=False)
    assert (lost.returncode, "ray: command not found" in lost.stderr) == (127, True)
    found = in_a_login_shell(tmp_path, "ray --version", written=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "ray of the image --version"
    python = in_a_login_shell(tmp_path, "python -m pip", written=True)
    assert python.stdout.strip() == "python of the image -m pip"


def test_login_shells_have_what_other_shells_have(tmp_path: Path) -> None:
    shown = subprocess.run(
        ["bash", "--noprofile", "--norc", "-c", f". {login_file(tmp_path)}; env"],
        env={"PATH": DEBIAN_PATH},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    login = dict(line.split("=", 1) for line in shown)
    image = image_environment()
    assert image.pop("HOME") == "/home/ray"  # login shells get theirs from /etc/passwd
    assert image["PATH"] == "/opt/venv/bin:$PATH"
    assert login["PATH"] == f"/opt/venv/bin:{DEBIAN_PATH}"
    assert {name: login.get(name) for name in image if name != "PATH"} == {
        name: value for name, value in image.items() if name != "PATH"
    }
    assert image["LANG"] == "C.UTF-8"  # file names are decoded by it


def test_the_image_is_checked_by_ray_in_both_kinds_of_shell_while_it_is_built() -> None:
    checks = [rest for kind, rest in dockerfile() if kind == "RUN" and "ray --version" in rest]
    assert len(checks) == 1
    assert "bash --login -c -i 'source ~/.bashrc;" in checks[0]
    user = [rest for kind, rest in dockerfile() if kind == "USER"]
    assert user == ["1000"]  # a name is not enough for Kubernetes' runAsNonRoot
    order = [kind for kind, rest in dockerfile() if kind == "USER" or "ray --version" in rest]
    assert order == ["USER", "RUN"]  # as the user, not as root


def test_what_is_copied_before_the_dependencies_is_all_that_set_up_imports_of_fgvr(tmp_path: Path) -> None:
    copies = [rest.split() for kind, rest in dockerfile() if kind == "COPY"]
    before = copies[: copies.index([".", "."])]
    for *names, target in before:
        for name in names:
            place = tmp_path / target
            place = place / Path(name).name if target.endswith("/") else place
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place)
    done = subprocess.run([sys.executable, "-c", "import fgvr; print(fgvr.__file__)"], cwd=tmp_path, check=True,
                          env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)  # fmt: skip
    assert done.stdout.startswith(str(tmp_path))
    assert "cluster/setup.sh" in {name for *names, _ in before for name in names}


def test_one_version_of_ray_and_of_python_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (pinned,) = [name.partition("==")[2] for name in project["dependencies"] if name.startswith("ray[")]
    (base,) = [rest for kind, rest in dockerfile() if kind == "FROM"]
    python = re.fullmatch(r"python:(3\.\d+)-slim-bookworm", base)
    assert python is not None
    assert pinned == ray.__version__
    tag = f"ray{pinned}-py{python[1].replace('.', '')}"
    said = (ROOT / "cluster" / "Dockerfile").read_text().split("FROM")[0]
    assert f"-t my-registry/fgvr:{tag} ." in said
    groups = [ray_cluster_of_the_job()["headGroupSpec"], *ray_cluster_of_the_job()["workerGroupSpecs"]]
    images = [group["template"]["spec"]["containers"][0]["image"] for group in groups]
    assert {ray_up()["docker"]["image"], *images} == {f"my-registry/fgvr:{tag}"}
    assert ray_cluster_of_the_job()["rayVersion"] == pinned


def test_ray_up_fills_in_nothing_by_itself() -> None:
    assert set(_get_default_config({"type": "aws"})) - set(ray_up()) == set()
    prepared = prepare_config(ray_up())
    validate_config(prepared)
    for field in ("initialization_commands", "head_setup_commands", "worker_setup_commands", "setup_commands"):
        assert prepared[field] == [], field  # AWS's defaults: pip install of a nightly Ray for another Python
    assert prepared["docker"]["worker_run_options"] == ["--gpus=all"]


def test_the_start_commands_are_options_of_this_ray_and_fit_into_shared_memory() -> None:
    prepared = prepare_config(ray_up())
    head, worker = prepared["head_start_ray_commands"][-1], prepared["worker_start_ray_commands"][-1]
    options = start_options(head)
    assert (options["num_cpus"], options["num_gpus"], options["head"]) == (0, 0, True)
    assert options["dashboard_host"] == "127.0.0.1"  # reached through SSH
    assert start_options(worker)["address"] == "10.0.0.1:6379"
    shared = 8 * 2**30
    assert "--shm-size=8gb" in prepared["docker"]["run_options"]
    for command in (head, worker):
        assert start_options(command)["object_store_memory"] < shared / 2
        assert "RAY_AUTH_MODE=token" in command
    pod = ray_cluster_of_the_job()
    for group in (pod["headGroupSpec"], *pod["workerGroupSpecs"]):
        known = {option.opts[0].removeprefix("--") for option in ray.scripts.scripts.start.params}
        assert set(group["rayStartParams"]) <= known
        (shm,) = [each for each in group["template"]["spec"]["volumes"] if each["name"] == "shm"]
        assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "8Gi"}
        assert int(group["rayStartParams"]["object-store-memory"]) < shared / 2


def asked_of(config: dict[str, Any], count: int, monitor: CloudResourceMonitor | None = None) -> dict[str, int]:
    """Nodes that Ray's autoscaler would start for so many engines of one GPU and eight cores."""
    monitor = monitor or CloudResourceMonitor()
    known = AutoscalingConfig(config, skip_content_hash=True)
    engines = ResourceRequestUtil.make({"GPU": 1.0, "CPU": 8.0}), count
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs={
            name: kind for name, kind in known.get_node_type_configs().items() if name != known.get_head_node_type()
        },
        max_num_nodes=known.get_max_num_nodes(),
        resource_requests=ResourceRequestUtil.group_by_count([engines[0]] * engines[1]),
        cloud_resource_availabilities=monitor.get_resource_availabilities(),
        recoverable_resource_availabilities=monitor.get_recoverable_resource_availabilities(),
    )
    reply = ResourceDemandScheduler().schedule(request)
    return {launch.instance_type: launch.count for launch in reply.to_launch}


def test_the_head_has_no_core_and_the_first_worker_is_on_demand() -> None:
    prepared = prepare_config(ray_up())
    kinds = prepared["available_node_types"]
    assert kinds["head"]["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in kinds["gpu_on_demand"]["node_config"]
    spot = {**kinds["gpu_on_demand"]["node_config"], "InstanceMarketOptions": {"MarketType": "spot"}}
    assert kinds["gpu_spot"]["node_config"] == spot  # the same machine
    assert kinds["gpu_spot"]["resources"] == kinds["gpu_on_demand"]["resources"]
    assert asked_of(prepared, 1) == {"gpu_on_demand": 1}
    assert asked_of(prepared, 4) == {"gpu_on_demand": 1, "gpu_spot": 3}
    assert asked_of(prepared, 20) == {"gpu_on_demand": 1, "gpu_spot": 8}


def test_what_the_file_says_of_refused_spot_instances_is_so() -> None:
    """Ray remembers types whose instances did not come up, and not those that the cloud refused."""

    def after(status: int) -> dict[str, int]:
        config = prepare_config(ray_up())
        config["available_node_types"]["gpu_spot"]["priority"] = 2  # were spot first
        monitor = CloudResourceMonitor()
        monitor.notify([InstanceUpdateEvent(new_instance_status=status, instance_type="gpu_spot")])
        return asked_of(config, 1, monitor)

    assert after(Instance.ALLOCATION_FAILED) == {"gpu_spot": 1}
    assert after(Instance.ALLOCATION_TIMEOUT) == {"gpu_on_demand": 1}


def test_the_rayjob_gives_the_head_no_core() -> None:
    resource = {"metadata": {"name": "fgvr", "namespace": "default"}, "spec": ray_cluster_of_the_job()}
    kinds = _derive_autoscaling_config_from_ray_cr(resource)["available_node_types"]
    assert (kinds["headgroup"]["resources"]["CPU"], kinds["headgroup"]["resources"]["GPU"]) == (0, 0)
    assert kinds["gpu"]["resources"] == {"CPU": 8, "GPU": 1, "memory": 48 * 2**30}
    assert (kinds["gpu"]["min_workers"], kinds["gpu"]["max_workers"]) == (0, 8)


# Names of fields in KubeRay's schema (ray.io_rayjobs.yaml of 1.5.1, of which 1.7.0 drops none).
JOB = {"entrypoint", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "rayClusterSpec",
       "runtimeEnvYAML", "submissionMode", "activeDeadlineSeconds", "entrypointNumCpus", "suspend"}  # fmt: skip
CLUSTER = {"rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec",
           "workerGroupSpecs", "gcsFaultToleranceOptions", "suspend"}  # fmt: skip
AUTOSCALER = {"idleTimeoutSeconds", "upscalingMode", "version", "resources", "image", "env", "envFrom"}
HEAD = {"rayStartParams", "template", "serviceType", "labels", "resources"}
GROUP = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template", "idleTimeoutSeconds",
         "numOfHosts", "labels", "resources"}  # fmt: skip
CONTAINER = {"name", "image", "ports", "env", "envFrom", "resources", "volumeMounts"}
POD = {"containers", "volumes", "tolerations", "nodeSelector"}


def test_the_rayjob_has_kuberays_fields_and_every_mount_its_volume() -> None:
    job = yaml.safe_load((ROOT / "cluster" / "rayjob.yaml").read_text())
    cluster = job["spec"]["rayClusterSpec"]
    assert set(job["spec"]) <= JOB
    assert set(cluster) <= CLUSTER
    assert set(cluster["autoscalerOptions"]) <= AUTOSCALER
    assert set(cluster["headGroupSpec"]) <= HEAD
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert set(group) <= GROUP | HEAD
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())  # numbers are refused
        pod = group["template"]["spec"]
        assert set(pod) <= POD
        (container,) = pod["containers"]
        assert set(container) <= CONTAINER
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        places = {variable["name"]: variable["value"] for variable in container["env"]}
        mounted = tuple(mount["mountPath"] + "/" for mount in container["volumeMounts"])
        # What is fetched is gigabytes: not into the container's own layer.
        assert all(places[name].startswith(mounted) for name in ("HF_HOME", "FGVR_CACHE"))


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_the_image_can_start_workers_on_aws(kind: str) -> None:
    """Ray's head asks AWS with boto3, which Ray does not bring along; cluster/setup.sh installs the extra `dev`."""
    assert f"-e '.[{kind},dev]'" in (ROOT / "cluster" / "setup.sh").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert "boto3" in extras["dev"]
