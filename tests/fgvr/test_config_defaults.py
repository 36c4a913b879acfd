"""What `--help` states as a field's default holds until that field itself is given."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import Field

from fgvr.config import Config, ConfigError, Label, build, load_config
from fgvr.config.base import Part, Workers
from fgvr.config.load import help_text
from fgvr.config.models import VllmBackend
from fgvr.config.tree import known_leaves, merge, nested, parts_at

NEEDED = {"path": "/photos", "model": "a-model", "teacher": "runs/teacher", "name": "dogs"}
"""A value for each field that has no default."""
LEAF = re.compile(r"^  --(\S+)  \((.*); (?:required|default (.*))\)$")
KIND = re.compile(r"^  --(\S+)\.kind (\S+), and its fields:$")


@dataclass(frozen=True)
class Stated:
    """A field as the help states it, with the tree that chooses the kind it belongs to (empty: no kind)."""

    name: str
    default: Any
    chosen: tuple[str, str] | None


def stated() -> list[Stated]:
    """All fields with defaults that `--help` prints."""
    found, chosen = [], None
    for line in help_text("", Path("none")).splitlines():
        if kind := KIND.match(line):
            chosen = (kind[1], kind[2])
        elif (leaf := LEAF.match(line)) and leaf[3] is not None:
            if chosen is not None and not leaf[1].startswith(f"{chosen[0]}."):
                chosen = None
            found.append(Stated(leaf[1], yaml.safe_load(leaf[3]), chosen))
    return found


FIELDS = stated()


AROUND = {"embed.vectors.encoder": nested("embed.vectors", {"kind": "file", "path": "vectors.npz"})}
"""Parts that only one kind of another part has, with what that kind needs."""


def with_kind(field: Stated) -> dict[str, Any]:
    """The least tree in which the field is there: its kind, and what that kind needs."""
    if field.chosen is None:
        return {}
    part, kind = field.chosen
    tree, around = {"kind": kind}, AROUND.get(part, {})
    while True:
        try:
            build(merge(around, nested(part, tree)))
        except ConfigError as error:
            missing = re.findall(rf"^{re.escape(part)}\.(\w+): required", str(error), re.MULTILINE)
            if not missing:
                raise
            tree |= {name: NEEDED[name] for name in missing}
        else:
            return merge(around, nested(part, tree))


def value_in(tree: Any, name: str) -> Any:
    for step in name.split("."):
        tree = tree[step]
    return tree


def part_in(tree: Any, name: str) -> Any:
    """None also for a part inside one whose kind has no such part."""
    for step in name.split("."):
        tree = None if tree is None else tree.get(step)
    return tree


def value_of(config: Config, name: str) -> Any:
    return value_in(config.model_dump(mode="json"), name)


def others(value: Any) -> Iterator[Any]:
    """Values that are not `value` and of which the field may allow one."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value + 1, value * 2, value / 2, value - 1)
    elif isinstance(value, str):
        yield from ("a {} b", "other")
    elif isinstance(value, list):
        yield from (value[:1], [*value, *value[-1:]], ["other"], [1])
    elif isinstance(value, dict):
        yield {"other": 1}
    else:
        yield from (2, 0.5, "other", ["other"], 2000)


def changed(field: Stated, base: dict[str, Any]) -> Any:
    """Another value than the default where one can be found, else the default: giving it is giving the field."""
    for value in others(field.default):
        try:
            config = build(merge(base, nested(field.name, value)))
        except ConfigError:
            continue
        if value_of(config, field.name) != field.default:
            return value
    return field.default


def test_the_help_is_read_as_a_whole() -> None:
    assert len(FIELDS) > 350
    assert {field.chosen[1] for field in FIELDS if field.chosen} >= {"vllm", "openai", "folder", "dkd", "clip"} - {
        "clip"  # has no field of its own
    }
    assert Stated("label.workers.rows_per_part", 256, None) in FIELDS
    assert Stated("mllm.max_retries", 6, ("mllm", "openai")) in FIELDS


def flags_of(field: Stated, base: dict[str, Any], value: Any) -> list[str]:
    """The same on a command line, with the kind behind the field."""
    text = value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True, width=9999)
    flags = [f"--{field.name}", text.replace("\n...", "").strip()]
    if field.chosen is not None:
        for part in [field.chosen[0], *(["embed.vectors"] if field.chosen[0] in AROUND else [])]:
            for name, needed in value_in(base, part).items():
                if f"{part}.{name}" != field.name and not isinstance(needed, dict):
                    flags += [f"--{part}.{name}", needed]
    return flags


def wrong_in(config: Config, field: Stated, value: Any, base: dict[str, Any]) -> list[tuple[str, str, Any, Any]]:
    """What is not as the help states it, beside what was given."""
    tree, given = config.model_dump(mode="json"), {field.name}
    if field.chosen is not None:
        given |= {f"{field.chosen[0]}.{name}" for name in value_in(base, field.chosen[0])}
        given |= {"embed.vectors.kind", "embed.vectors.path"} if field.chosen[0] in AROUND else set()
    found = [] if value_in(tree, field.name) == value else [(field.name, field.name, value_in(tree, field.name), value)]
    for other in FIELDS:
        part = None if other.chosen is None else part_in(tree, other.chosen[0])
        if other.name in given or (other.chosen and (part is None or part["kind"] != other.chosen[1])):
            continue
        if value_in(tree, other.name) != other.default:
            found.append((field.name, other.name, value_in(tree, other.name), other.default))
    return found


def test_any_field_given_leaves_all_others_as_the_help_states_them(tmp_path: Path) -> None:
    """Through a file and through a flag; what is below a part with kinds, with the kind that it belongs to."""
    preset = tmp_path / "empty.yaml"
    preset.write_text("{}")
    wrong, moved, trees = [], 0, {}
    for field in FIELDS:
        if field.chosen not in trees:
            trees[field.chosen] = with_kind(field)
        base = trees[field.chosen]
        value = changed(field, base)
        moved += value != field.default
        by_file = build(merge(base, nested(field.name, value)))
        by_flag = load_config(["--config", str(preset), *flags_of(field, base, value)], tmp_path)
        wrong += wrong_in(by_file, field, value, base) + wrong_in(by_flag, field, value, base)
    assert wrong == []
    assert moved > 0.8 * len(FIELDS)


@pytest.mark.parametrize(
    ("flag", "rows"),
    [
        ("label.workers.max_workers", 256),
        ("aspects.workers.num_gpus", 256),
        ("class_scores.workers.num_cpus", 256),
        ("embed.workers.max_workers", 4096),
        ("infer.workers.memory_gb", 4096),
        ("neighbours.workers.max_workers", 65_536),
        ("detect.infer_workers.num_cpus", 256),
        ("questions.workers.max_workers", 1024),
    ],
)
def test_a_pool_s_size_leaves_the_rows_of_its_files(flag: str, rows: int) -> None:
    """The numbers of the issue's report, by hand."""
    part = flag.rpartition(".")[0]
    assert value_of(build(nested(flag, 8)), f"{part}.rows_per_part") == rows


def test_layers_below_a_default_object(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("label: {workers: {num_gpus: 1}}\n")
    config = load_config(["--config", str(tmp_path / "mine.yaml"), "--label.workers.max_workers", "8"], tmp_path)
    assert config.label.workers == Workers(num_gpus=1, max_workers=8, rows_per_part=256)
    given = load_config(["--config", str(tmp_path / "mine.yaml"), "--label.workers", "{rows_per_part: 7}"], tmp_path)
    assert given.label.workers == Workers(num_gpus=1, rows_per_part=7)
    assert Label.model_validate({"workers": {"num_cpus": 2}}).workers.rows_per_part == 256  # without any layer
    assert Label(workers=Workers(num_cpus=2)).workers.rows_per_part == 1024  # a whole object is itself


def test_the_mechanism_on_parts_of_its_own() -> None:
    class Inner(Part):
        a: int = 1
        b: int = 2

    class Outer(Part):
        inner: Inner = Inner(a=10)
        c: int = 3

    class Root(Part):
        outer: Outer = Outer(inner=Inner(b=20), c=30)
        made: Outer = Field(default_factory=lambda: Outer(c=300))

    def of(tree: dict[str, Any]) -> dict[str, Any]:
        return Root.model_validate(tree).model_dump()

    assert of({})["outer"] == {"inner": {"a": 1, "b": 20}, "c": 30}
    # An object within a default object replaced its class's default: what it has is what was made.
    assert of({"outer": {"c": 31}})["outer"] == {"inner": {"a": 1, "b": 20}, "c": 31}
    assert of({"outer": {"inner": {"a": 5}}})["outer"] == {"inner": {"a": 5, "b": 20}, "c": 30}
    assert of({"made": {"inner": {"b": 7}}})["made"] == {"inner": {"a": 10, "b": 7}, "c": 300}


ABOVE = {"mllm": "mllm", "workers": "label.workers"}
"""Parts of a source of labels → the parts whose fields they have where they leave them out."""


def test_what_an_item_of_a_list_leaves_out_is_as_in_the_part_above_it() -> None:
    """Every field of `mllm` and `label.workers`, seen from a source that gives another field of the same part."""
    (name,) = {leaf.name for leaf in known_leaves(Config) if parts_at(Config, f"{leaf.name}.0")}
    assert name == "label.sources"
    asked = parts_at(Config, "label.sources.0")["ask"]
    assert set(ABOVE) == {field for field in asked.model_fields if parts_at(Config, f"label.sources.0.{field}")}
    wrong, moved = [], 0
    for part, above in ABOVE.items():
        fields = [field for field in FIELDS if field.name.rpartition(".")[0] == above and field.name != "mllm.kind"]
        assert len(fields) > 6
        for field in fields:
            base, last = with_kind(field), field.name.rpartition(".")[2]
            value = changed(field, base)
            own = (
                "num_cpus"
                if part == "workers"
                else {"vllm": "max_num_seqs", "openai": "concurrency"}.get(
                    field.chosen[1],
                    "rare_names",  # type: ignore[index]
                )
            )
            if own == last:
                continue
            given = ({} if field.chosen is None else {"kind": field.chosen[1]}) | {own: 1}
            sources = {"label": {"sources": [{"kind": "ask"}, {"kind": "ask", "name": "b", part: given}]}}
            config = build(merge(merge(base, nested(field.name, value)), sources))
            plain, source = config.model_dump(mode="json")["label"]["sources"]
            moved += value != field.default
            wrong += [field.name] * (source[part][last] != value or source[part][own] != 1 or plain[part] is not None)
    assert wrong == []
    assert moved > 20


def test_a_source_names_another_model_or_server() -> None:
    """By hand: another kind starts afresh, another model has its own arguments, another server never gets the key."""

    def second(mllm: dict[str, Any], given: dict[str, Any]) -> Any:
        return build({"mllm": mllm, "label": {"sources": [{"kind": "ask", "mllm": given}]}}).label.sources[0].mllm

    vllm = {"kind": "vllm", "model": "owner/a", "revision": "v1", "dtype": "float16", "engine_args": {"x": 1}}
    assert second(vllm, {"kind": "vllm", "seed": 3}) == VllmBackend(**vllm, seed=3)
    assert second(vllm, {"seed": 3}) == VllmBackend(**vllm, seed=3)
    other = second(vllm, {"kind": "vllm", "model": "/b"})
    assert (other.model, other.revision, other.dtype, other.engine_args) == ("/b", None, "float16", {})
    # What a source says is what it has, and so a config that an earlier version saved, with all fields, is as it was.
    assert second(vllm, {"engine_args": {}}).engine_args == {}
    assert second(vllm, VllmBackend(model="owner/a").model_dump()) == VllmBackend(model="owner/a")
    server = {"kind": "openai", "model": "m", "base_url": "https://a/v1", "api_key_env": "A", "timeout_seconds": 9}
    other = second(server, {"kind": "openai", "base_url": "https://b/v1"})
    assert (other.model, other.api_key_env, other.timeout_seconds) == ("m", "OPENAI_API_KEY", 9)
    assert second(server, {"kind": "openai", "model": "n"}).api_key_env == "A"
    with pytest.raises(ConfigError, match=r"label\.sources\.0\.mllm\.model: required; without it the tiny model"):
        second(server, {"kind": "vllm", "dtype": "float32"})
    workers = {"min_workers": 3, "max_workers": 4}
    with pytest.raises(ConfigError, match=r"label\.sources\.0\.workers: min_workers = 3 is more than max_workers = 2"):
        build({"label": {"workers": workers, "sources": [{"kind": "ask", "workers": {"max_workers": 2}}]}})


@pytest.mark.parametrize("part", ["questions.llm", "baselines.finer.llm"])
def test_a_second_vllm_model_is_named(part: str) -> None:
    mllm = {"mllm": {"kind": "vllm", "model": "/m"}}
    with pytest.raises(ConfigError, match=rf"^{re.escape(part)}\.model: required; .* or demo if it is meant"):
        build(merge(mllm, nested(part, {"kind": "vllm", "max_model_len": 77})))
    assert value_of(build(nested(part, {"kind": "vllm", "model": "demo"})), part)["model"] == "demo"
