"""Rules of the whole repository: who may import whom, and that what is shipped can be read by those it is for."""

import ast
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml

from fgvr.config import Config, load_config
from fgvr.config.tree import leaves

ROOT = Path(__file__).parents[1]
PRESETS = ROOT / "pipelines" / "configs"

# What the code of a folder may not import: fgvr says what is computed, cluster where and how, pipelines in what order.
FORBIDDEN = {
    "fgvr": {"ray", "mlflow", "cluster", "pipelines", "tune"},
    "cluster": {"pipelines", "tune"},
    "pipelines": {"tune", "ray"},
}


def imports(file: Path) -> Iterator[str]:
    """First names of everything that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_no_layer_imports_what_lies_above_it(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    wrong = {
        f"{file.relative_to(ROOT)}: {name}" for file in files for name in imports(file) if name in FORBIDDEN[folder]
    }
    assert wrong == set()


@pytest.mark.parametrize("preset", sorted(PRESETS.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_preset_parses(preset: Path) -> None:
    load_config(["--config", preset.stem], PRESETS)


def test_every_field_of_the_config_says_what_it_means() -> None:
    assert [
        leaf.name for leaf in leaves(Config) if len(leaf.meaning.split()) < 2 and not leaf.name.endswith(".kind")
    ] == []


def test_ray_up_takes_the_cluster_file() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    cluster = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())
    jsonschema.validate(cluster, schema)
    kinds = cluster["available_node_types"]
    assert cluster["head_node_type"] in kinds
    assert any(
        kind["node_config"].get("InstanceMarketOptions", {}).get("MarketType") == "spot" for kind in kinds.values()
    )
    assert any("RAY_AUTH_MODE=token" in command for command in cluster["head_start_ray_commands"])


def test_ray_up_fills_in_the_cluster_file() -> None:
    # What `ray up` does before it asks the cloud for anything; finds what the schema does not say.
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(yaml.safe_load((ROOT / "ray_cluster.yaml").read_text()))
    validate_config(prepared)
    assert prepared["available_node_types"]["gpu_spot"]["max_workers"] == 8
    assert prepared["docker"]["image"]


def test_the_rayjob_runs_what_exists_with_flags_that_exist() -> None:
    job = yaml.safe_load((ROOT / "cluster" / "rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert ray.__version__ == cluster["rayVersion"]
    assert cluster["authOptions"] == {"mode": "token"}
    python, script, *flags = shlex.split(job["spec"]["entrypoint"])
    assert python == "python"
    assert (ROOT / Path(script).relative_to("/opt/fgvr")).exists()
    load_config(flags, PRESETS)
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    images = {group["template"]["spec"]["containers"][0]["image"] for group in groups}
    assert len(images) == 1  # head and workers must have the same versions


def test_the_image_is_made_of_what_exists() -> None:
    dockerfile = (ROOT / "cluster" / "Dockerfile").read_text()
    copied = [line.split()[1:-1] for line in dockerfile.splitlines() if line.startswith("COPY")]
    assert [name for names in copied for name in names if not (ROOT / name).exists()] == []


def test_the_makefile_and_the_readme_agree() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert {"demo", "test", "test-fast", "lint", "setup", "setup-gpu"} <= targets
    named = set(re.findall(r"\bmake ([a-z][a-z-]+)\b", (ROOT / "README.md").read_text()))
    assert {"demo", "test"} <= named <= targets


def test_scripts_are_found_by_a_line_in_their_docstring() -> None:
    for file in sorted((ROOT / "pipelines").glob("*.py")):
        text = file.read_text()
        if "__main__" in text:
            assert f"python pipelines/{file.name}" in (ast.get_docstring(ast.parse(text)) or ""), file.name


def test_test_files_have_names_of_their_own() -> None:
    # pytest imports them by name: of two with the same one, the second is an error for whoever runs both.
    names = [file.name for file in (ROOT / "tests").rglob("*.py") if file.name not in {"conftest.py", "__init__.py"}]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []
