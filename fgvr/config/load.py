"""From a preset, a YAML file and `--dotted.flags` to a checked config; and the help text that lists every field.

Later layers win: defaults, then the file named by `--config`, then flags. Where a layer names another `kind` of a
backend or source, the fields that lower layers gave to the old kind are dropped.
"""

from __future__ import annotations

import difflib
import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from fgvr import storage
from fgvr.config.run import Config
from fgvr.errors import UserError


class ConfigError(UserError, ValueError):
    """A config that cannot be used; the message names the field, the value and what is allowed."""


def load_config(argv: Sequence[str], presets: Path, description: str = "", default: str = "demo") -> Config:
    """The config of a command line: `[--config NAME_OR_FILE] [--field.name VALUE …]`; `--help` prints and exits.

    Args:
        argv: the arguments after the program's name.
        presets: folder of shipped presets; `--config demo` means its demo.yaml.
        description: first paragraph of `--help`.
        default: preset used without `--config`.

    Raises:
        ConfigError: an unknown field or file, or a value that is not allowed.
    """
    if "--help" in argv or "-h" in argv:
        sys.stdout.write(help_text(description, presets))
        raise SystemExit(0)
    name, overrides = _parse_flags(argv)
    layer = read_preset(name or default, presets)
    for path, value in overrides:
        layer = _merge(layer, _nested(path, value))
    return build(layer)


def build(values: dict[str, Any]) -> Config:
    """A checked config of a plain tree; raises ConfigError with one line for each thing that is wrong."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(problem) for problem in error.errors())) from None


def read_preset(name: str, presets: Path) -> dict[str, Any]:
    """The tree of a preset's name or of a YAML file's path or URL; raises ConfigError when there is none."""
    shipped = presets / f"{name}.yaml"
    uri = str(shipped) if shipped.exists() else name
    if not storage.exists(uri):
        known = ", ".join(sorted(file.stem for file in presets.glob("*.yaml")))
        raise ConfigError(f"--config {name}: no such file, and no such preset (there are: {known})")
    try:
        tree = yaml.safe_load(storage.read_bytes(uri).decode())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {name}: not a YAML file: {error}") from None
    if not isinstance(tree, dict | None):
        raise ConfigError(f"--config {name}: expected fields with values, found a {type(tree).__name__}")
    return tree or {}


def to_yaml(config: Config) -> str:
    """The resolved config as YAML that `--config` takes again."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _parse_flags(argv: Sequence[str]) -> tuple[str | None, list[tuple[str, Any]]]:
    config: str | None = None
    overrides: list[tuple[str, Any]] = []
    words = iter(argv)
    for word in words:
        if not word.startswith("--"):
            raise ConfigError(f"{word!r}: expected --field.name VALUE (see --help)")
        name, equals, value = word[2:].partition("=")
        if not equals:
            following = next(words, None)
            if following is None:
                raise ConfigError(f"--{name}: a value is missing")
            value = following
        if name == "config":
            config = value
        else:
            try:
                overrides.append((name.replace("-", "_"), yaml.safe_load(value)))
            except yaml.YAMLError:
                overrides.append((name.replace("-", "_"), value))  # text that YAML takes for something else
    return config, overrides


def _nested(path: str, value: Any) -> dict[str, Any]:
    for key in reversed(path.split(".")):
        value = {key: value}
    return dict(value)


def _merge(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    """`lower` overruled by `upper`, deeply; another `kind` starts afresh."""
    if "kind" in upper and upper["kind"] != lower.get("kind"):
        return upper
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(value, dict) and isinstance(below, dict) else value
    return merged


def _explain(problem: Any) -> str:
    # pydantic names the alternative of a union in the path; to the user it is the value of `kind`.
    tags = {default for name, _, _, default in fields(Config) if name.endswith(".kind")}
    place = ".".join(str(part) for part in problem["loc"] if part not in tags)
    if problem["type"] == "extra_forbidden":
        known = sorted(name for name, *_ in fields(Config))
        close = difflib.get_close_matches(place, known, n=1, cutoff=0.6)
        hint = f"; did you mean {close[0]}?" if close else " (see --help)"
        return f"{place}: there is no such field{hint}"
    value = problem.get("input")
    shown = f" = {value!r}" if not isinstance(value, dict | BaseModel) else ""
    return f"{place}{shown}: {problem['msg']}"


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any, str, Any]]:
    """(dotted name, annotation, docstring, default) of every leaf field, unions of parts one after the other."""
    for name, info in model.model_fields.items():
        place = f"{prefix}{name}"
        options = [option for option in _options(info.annotation) if _is_part(option)]
        if not options:
            yield place, info.annotation, info.description or "", info.get_default(call_default_factory=True)
        for option in options:
            yield from fields(option, f"{place}.")


def _options(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union; the annotation alone where it is none."""
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(found for option in get_args(annotation) for found in _options(option))
    return (_options(get_args(annotation)[0])) if hasattr(annotation, "__metadata__") else (annotation,)


def _is_part(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _type_name(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return "|".join(str(value) for value in get_args(annotation))
    names = [option.__name__ if isinstance(option, type) else str(option) for option in _options(annotation)]
    return " or ".join("null" if name == "NoneType" else name.replace("typing.", "") for name in names)


def help_text(description: str, presets: Path) -> str:
    """Every field with its type, default and meaning."""
    lines = [description.strip(), "", "Usage: [--config PRESET_OR_FILE] [--FIELD VALUE …]", ""]
    lines += ["Presets: " + ", ".join(sorted(file.stem for file in presets.glob("*.yaml"))), "", "Fields:"]
    for name, annotation, meaning, default in fields(Config):
        shown = "required" if repr(default) == "PydanticUndefined" else f"default {_yaml_value(default)}"
        lines += [f"  --{name}  ({_type_name(annotation)}; {shown})", f"      {' '.join(meaning.split())}"]
    return "\n".join(lines) + "\n"


def _yaml_value(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=200).replace("\n...", "").strip()


def exit_with(error: ConfigError) -> NoReturn:
    """Print what is wrong and leave with status 2, as command lines do."""
    sys.stderr.write(f"config: {error}\n")
    raise SystemExit(2)
