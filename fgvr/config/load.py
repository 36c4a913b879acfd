"""From a preset, a YAML file and `--dotted.flags` to a checked config.

Later layers win: defaults, then the file named by `--config`, then flags, whose order does not count. Where a layer
names another `kind` of a backend or source, the fields that lower layers gave to the old kind are dropped; those of the
same layer must be the new kind's.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import ValidationError

from fgvr import storage
from fgvr.config.base import UNUSED
from fgvr.config.data import TableSource, check_path_is_read
from fgvr.config.explain import OWN_FLAGS, explain, field_of, suggestion
from fgvr.config.help import help_text, help_topic, is_topic
from fgvr.config.idle import without_effect
from fgvr.config.label_sources import AnswerFile
from fgvr.config.run import Config
from fgvr.config.tree import default_kinds, flat, known_leaves, merge, nested, options
from fgvr.config.vectors import FileVectors
from fgvr.config.yaml_text import FieldError, YamlError, read_yaml, with_environment
from fgvr.errors import UserError
from fgvr.redact import MASK, is_secret_name, masked_tree
from fgvr.text_files import decoded

log = logging.getLogger(__name__)
_LEFT_OUT = f"{MASK}left-out{MASK}"
"""What a saved config has for a mask that might be somebody's prompt or folder, `***`."""
_LOST = re.compile(rf"{re.escape(_LEFT_OUT)}|://\*{{3}}@|[?&;][\w.%-]+=\*{{3}}|KEY-----\*{{3}}")
"""A value that held a secret when it was saved."""


class ConfigError(UserError, ValueError):
    """A config that cannot be used; the message names the field, the value and what is allowed."""


def load_config(
    argv: Sequence[str], presets: Path, description: str = "", default: str = "demo", stage: str = ""
) -> Config:
    """The config of a command line: `[--config NAME_OR_FILE] [--field.name VALUE …]`; `--help` prints and exits.

    Args:
        argv: the arguments after the program's name.
        presets: folder of shipped presets; `--config demo` means its demo.yaml.
        description: first paragraph of `--help`.
        default: preset used without `--config`.
        stage: part of the script's own stage, to which `--help` keeps; "" or another name: all of them.

    Raises:
        ConfigError: an unknown field or file, or a value that is not allowed.
    """
    if (topic := help_topic(argv)) is not None:
        sys.stdout.write(help_page(argv, topic, presets, description, stage=stage, default=default))
        raise SystemExit(0)
    name, given = _parse_flags(argv)
    tree = default_kinds(Config)
    flags = _flag_layer(given)
    file = read_preset(name or default, presets)
    whole = _is_saved(file)
    for layer in (_without_unused(file) if whole else file, flags):
        _check_source(layer, tree)
        tree = merge(tree, layer)
    config = build(tree)
    shipped = (presets / f"{name or default}.yaml").exists()
    for sentence in without_effect(config, flat(flags), {} if whole or shipped else flat(file)):
        log.warning("%s", sentence)
    return config


def help_page(
    argv: Sequence[str],
    topic: str,
    presets: Path,
    description: str,
    *,
    stage: str = "",
    tuned: Sequence[str] = (),
    default: str = "demo",
) -> str:
    """The page of a topic, with the values of the preset or file that the command line names beside the defaults.

    See `load_config` and `help_text`; raises ConfigError for a topic that is none.
    """
    topic = topic.replace("-", "_")
    if not is_topic(topic):
        raise ConfigError(f"--help {topic}: there is no such part or field{suggestion(topic)}")
    named = [word.removeprefix("--config=") for word in argv if word.startswith("--config=")]
    named += [name for flag, name in pairwise(argv) if flag == "--config"]
    preset = (named or [default])[0]
    try:
        values = flat(read_preset(preset, presets))
    except ConfigError:  # who asks for help may not have the file yet
        values = {}
    return help_text(description, presets, topic, stage=stage, tuned=tuned, preset=preset, values=values)


def _is_saved(tree: dict[str, Any]) -> bool:
    """Whether a run or a sweep saved this config, with all parts: people name those whose fields they change."""
    return tree.keys() >= {"run", "cluster", "tracking", "clip", "class_scores", "baselines", "infer", "detect"}


def _without_unused(tree: dict[str, Any]) -> dict[str, Any]:
    """A saved config without fields that the version which saved it took and did not use: today these are refused."""
    try:
        Config.model_validate(tree)
    except ValidationError as error:
        unused = [problem for problem in error.errors() if problem["type"] == UNUSED]
        for problem in unused:
            tree = _without(tree, [*field_of(problem["loc"]).split("."), problem["ctx"]["field"]])
        return _without_unused(tree) if unused else tree  # a part may have two, of which one is said at a time
    return tree


def _without(tree: Any, steps: Sequence[str]) -> Any:
    """A tree of mappings and lists without the field that these steps lead to."""
    if isinstance(tree, list):
        return [_without(item, steps[1:]) if str(at) == steps[0] else item for at, item in enumerate(tree)]
    if len(steps) == 1:
        return {key: value for key, value in tree.items() if key != steps[0]}
    return tree | {steps[0]: _without(tree[steps[0]], steps[1:])}


def _check_source(layer: dict[str, Any], below: dict[str, Any]) -> None:
    """Photos that somebody names must not be taken for a place to draw at."""
    sources = [tree.get("ingest") for tree in (layer, below)]
    given, lower = (part.get("source") if isinstance(part, dict) else None for part in sources)
    try:
        check_path_is_read(given, lower.get("kind") if isinstance(lower, dict) else None)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def build(values: dict[str, Any]) -> Config:
    """A checked config of a plain tree; raises ConfigError with one line for each thing that is wrong."""
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(explain(problem) for problem in error.errors())) from None
    if left_out := _masked_fields(config.model_dump(mode="json")):
        raise ConfigError(
            f"{', '.join(left_out)}: {MASK} stands for a secret that was left out when this config was saved; "
            "give the field again, or better, the secret in the environment (docs/security.md)"
        )
    return config


def _masked_fields(values: Any, place: str = "") -> list[str]:
    """Dotted names of the fields whose value has lost a secret."""
    if isinstance(values, dict):
        return [
            found for name, value in values.items() for found in _masked_fields(value, f"{place}.{name}".strip("."))
        ]
    if isinstance(values, list):
        return [found for value in values for found in _masked_fields(value, place)]
    return [place] if isinstance(values, str) and _has_lost(values, place.rpartition(".")[2]) else []


def _has_lost(value: str, name: str) -> bool:
    """Whether a field's value held a secret when it was saved."""
    return _LOST.search(value) is not None or (value == MASK and is_secret_name(name))


def read_preset(name: str, presets: Path) -> dict[str, Any]:
    """The tree of a preset's name or of a YAML file's path or URL, `$NAME` at the beginning of a path replaced.

    Raises ConfigError when there is none, or none that says a config: a field twice, a list, nothing at all.
    """
    shipped = presets / f"{name}.yaml"
    uri = str(shipped) if shipped.exists() else name
    if not storage.exists(uri):
        known = sorted(file.stem for file in presets.glob("*.yaml"))
        meant = "".join(f"; did you mean {close}?" for close in get_close_matches(name, known, n=1))
        raise ConfigError(f"--config {name}: no such file, and no such preset (there are: {', '.join(known)}){meant}")
    try:
        tree = with_environment(read_yaml(decoded(storage.read_bytes(uri))))
    except UnicodeDecodeError as error:
        raise ConfigError(f"--config {name}: not a YAML file: not UTF-8 text: {error.reason}") from None
    except FieldError as error:
        raise ConfigError(f"--config {name}: {error}") from None
    except YamlError as error:
        raise ConfigError(f"--config {name}: not a YAML file: {error}") from None
    except RecursionError:
        raise ConfigError(f"--config {name}: an anchor (&) holds itself") from None
    except OSError as error:  # a folder, a file that may not be read
        raise ConfigError(f"--config {name}: cannot be read: {error}") from None
    if not isinstance(tree, dict):
        found = "nothing but comments" if tree is None else f"a {type(tree).__name__}"
        raise ConfigError(f"--config {name}: expected fields with values (`run:` …), found {found}")
    return tree


def to_yaml(config: Config) -> str:
    """The resolved config as YAML that `--config` takes again, with a mask for secrets, which it then asks for."""
    tree = as_given(config)
    return yaml.safe_dump(_with_gaps(masked_tree(tree), tree), sort_keys=False, allow_unicode=True)


def _with_gaps(masked: Any, plain: Any, name: str = "") -> Any:
    """A masked tree in which every value that lost a secret shows it."""
    if isinstance(masked, dict):
        return {name: _with_gaps(value, plain[name], name) for name, value in masked.items()}
    if isinstance(masked, list):
        return [_with_gaps(value, beside, name) for value, beside in zip(masked, plain, strict=True)]
    return masked if masked == plain or _has_lost(masked, name) else masked.replace(MASK, _LEFT_OUT)


def as_given(config: Config) -> dict[str, Any]:
    """The resolved config as a tree of JSON types, from which `build` makes it again.

    A table's columns that nobody named are left out: a column that is named must be there, one of the default's name
    need not.
    """
    tree: dict[str, Any] = config.model_dump(mode="json")
    source = config.ingest.source
    if isinstance(source, TableSource):
        for column in {"split_column", "class_column"} - source.model_fields_set:
            del tree["ingest"]["source"][column]
    given_parts = [*tree["label"]["sources"], tree["embed"]["vectors"]]
    for given, part in zip(given_parts, (*config.label.sources, config.embed.vectors), strict=True):
        if isinstance(part, AnswerFile | FileVectors):
            for column in {name for name in given if name.endswith("_column")} - part.model_fields_set:
                del given[column]
    return tree


def _parse_flags(argv: Sequence[str]) -> tuple[str | None, list[tuple[str, str]]]:
    config: str | None = None
    overrides: list[tuple[str, str]] = []
    words = iter(argv)
    for word in words:
        if not word.startswith("--"):
            meant = f"; did you mean --{word}?" if is_topic(word.partition("=")[0].replace("-", "_")) else ""
            raise ConfigError(f"{word!r}: expected --field.name VALUE (see --help){meant}")
        name, equals, value = word[2:].partition("=")
        if not equals:
            following = next(words, None)
            if following is None or _is_flag(following):
                before = "" if following is None else f" before {following}"
                choice = " (true or false)" if _is_switch(name) else ""
                raise ConfigError(f"--{name}: a value is missing{before}{choice}")
            value = following
        if name == "config":
            if config is not None:  # the first one's fields would be dropped without a word
                raise ConfigError(f"--config {config} and --config {value}: give one; flags change its fields")
            config = value
        else:
            overrides.append((name.replace("-", "_"), value))
    return config, overrides


def _is_flag(word: str) -> bool:
    """Whether a word is the name of a field with dashes before it, which is no value that somebody means."""
    name = word.removeprefix("--").partition("=")[0].replace("-", "_")
    return word.startswith("--") and (name in OWN_FLAGS or any(leaf.name == name for leaf in known_leaves(Config)))


def _is_switch(name: str) -> bool:
    return any(leaf.annotation is bool for leaf in known_leaves(Config) if leaf.name == name.replace("-", "_"))


def _flag_layer(given: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """All flags as one layer, so that a part's `kind` holds for all of its fields wherever it stands among them."""
    layer: dict[str, Any] = {}
    for name, text in given:
        _add_flag(layer, nested(name, _value(name, text)), "")
    return layer


def _add_flag(layer: dict[str, Any], flag: dict[str, Any], part: str) -> None:
    for key, value in flag.items():
        place, before = f"{part}{key}", layer.get(key)
        if key not in layer:
            layer[key] = value
        elif isinstance(value, dict) and isinstance(before, dict):
            _add_flag(before, value, f"{place}.")
        elif isinstance(value, dict) or isinstance(before, dict):
            whole = value if isinstance(before, dict) else before
            raise ConfigError(f"--{place} = {whole!r}, and flags for fields below it: give one of the two")
        else:
            if before != value:
                log.warning("--%s is given twice: %r is dropped, the last one, %r, holds", place, before, value)
            layer[key] = value


def _value(name: str, text: str) -> Any:
    """A flag's value: literally for fields of text (a run may be named 123), else as YAML has it.

    `null` is none where the field may be; a list of one may be given without brackets. Raises ConfigError for a value
    that says nothing, such as an empty variable of the shell, and for a mapping that says a field twice.
    """
    types = {kind for leaf in known_leaves(Config) if leaf.name == name for kind in options(leaf.annotation)}
    lists = [kind for kind in types if get_origin(kind) is tuple]
    if not text.strip() and str not in types:
        raise ConfigError(f"--{name}: {text!r} says nothing; write null for none")
    null = type(None) in types and text.strip() in {"null", "Null", "NULL"}
    if str in types and not null:
        return _with_variable(name, text)
    if any(_of_texts(kind) for kind in lists) and not null and not text.lstrip().startswith("["):
        return [_with_variable(name, text)]
    try:
        value = read_yaml(text)
    except FieldError as error:
        raise ConfigError(f"--{name}: {error}") from None
    except YamlError:
        return text  # text that YAML takes for something else
    if value is None and text.strip() not in {"null", "Null", "NULL", "~"}:  # a comment
        raise ConfigError(f"--{name}: {text!r} says nothing; write null for none")
    return [value] if lists and isinstance(value, str | int | float) else value


def _of_texts(kind: Any) -> bool:
    """Whether a tuple's type is one of texts or words."""
    first = get_args(kind)[0]
    return first is str or get_origin(first) is Literal


def _with_variable(name: str, text: str) -> str:
    try:
        return str(with_environment(text))
    except FieldError as error:
        raise ConfigError(f"--{name}: {error}") from None
