"""What `--help` prints: the fields that people change, all of them, or those of one part."""

from __future__ import annotations

import builtins
import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args, get_origin

import annotated_types
import yaml
from pydantic_core import PydanticUndefined

from fgvr.config import tree
from fgvr.config.run import Config
from fgvr.config.tree import Branch, Leaf, known_branches, known_leaves

ALL: Final = "all"
"""The topic under which every field stands."""
HELP_FLAGS: Final = frozenset({"--help", "-h"})
WIDTH: Final = 100
"""Columns where the output is no terminal."""
_SENTENCE: Final = re.compile(r"(?<=\.)\s+(?=[A-Z`(])")
PARTS: Final = tuple(Config.model_fields)
"""The parts of the whole tree: one for each stage, and some that concern all of them."""
HEAD: Final = """\
Usage: [--config PRESET_OR_FILE] [--plan] [--FIELD VALUE …]
--config PRESET_OR_FILE: a YAML file with the tree of fields below, or a preset: {presets}
--plan (or --dry-run): check the config, say what models will be asked and what it costs, start nothing
--help TOPIC: `all` lists every field; a part or a field (makd, label.images …) everything about it. Parts: \
{parts}
Exit status: 0 done; 1 stopped on the way, the same command goes on; 2 not started: mend it
"""


def help_topic(argv: Sequence[str]) -> str | None:
    """What stands behind `--help`: a topic, "" where none does; None where no help is asked for."""
    for at, word in enumerate(argv):
        flag, _, topic = word.partition("=")
        if flag in HELP_FLAGS:
            following = "".join(argv[at + 1 : at + 2])
            return topic or ("" if following.startswith("-") else following)
    return None


def is_topic(name: str) -> bool:
    """Whether `--help NAME` has something to say: "", `all`, a part or a field."""
    return name in {"", ALL, *known_branches(Config)} or any(leaf.name == name for leaf in known_leaves(Config))


def help_text(
    description: str,
    presets: Path,
    topic: str = ALL,
    *,
    stage: str = "",
    tuned: Sequence[str] = (),
    preset: str = "",
    values: Mapping[str, Any] | None = None,
) -> str:
    """The page of a topic (`is_topic`), as wide as the terminal.

    Args:
        description: first paragraphs of a page that is about the whole script.
        presets: folder of the shipped presets.
        topic: all fields, those of a part, or with "" the basic ones.
        stage: the part of the script's own stage: its tuned fields are listed, too, and other stages' are left out. A
            name that is no part leaves nothing out.
        tuned: further stages whose tuned fields are listed.
        preset: what the command line takes its values from, beside the defaults …
        values: … which are these, by their dotted names.
    """
    page = _Page(preset, values or {}, shutil.get_terminal_size((WIDTH, 24)).columns)
    if topic not in {"", ALL}:
        return "\n".join(page.about(topic)) + "\n"
    shipped = ", ".join(sorted(file.stem for file in presets.glob("*.yaml")))
    head = HEAD.format(presets=shipped, parts=", ".join(PARTS))
    lines = [description.strip(), "", *(row for line in head.splitlines() for row in page.wrapped(line, 0, 4))]
    for part in PARTS:
        if topic == ALL:
            lines += ["", *page.about(part)]
        elif stage == part or stage not in PARTS or known_branches(Config)[part].basic:
            lines += page.short(part, tuned=part in (stage, *tuned))
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class _Page:
    """How fields are shown: beside which values of which preset, and how wide."""

    preset: str
    values: Mapping[str, Any]
    width: int

    def about(self, topic: str) -> list[str]:
        """The title of a part and all its fields, by the parts inside it; a field alone."""
        whole = known_branches(Config).get(topic)
        if whole is None:
            kinds = known_branches(Config).get(topic.removesuffix(".kind"))
            return [line for leaf in _below(topic) for line in self.leaf(leaf)] if kinds is None else self.choice(kinds)
        lines, titled, before = self.title(whole), {topic}, topic
        for leaf in _below(topic):
            part = leaf.name.rpartition(".")[0]
            if part != before:
                lines.append("")
            if part not in titled:
                lines += self.title(known_branches(Config)[part], indent=2)
            before = part
            titled.add(part)
            lines += self.kind(leaf) if _chooses(leaf) else self.leaf(leaf)
        return lines

    def title(self, branch: Branch, indent: int = 0) -> list[str]:
        """What a part is about."""
        facts = " [null by default]" if branch.default_kind == "null" and branch.kinds else ""
        return self.wrapped(f"{branch.name}: {_meaning(branch)}{facts}", indent, indent + 4)

    def short(self, part: str, *, tuned: bool) -> list[str]:
        """The title of a part of the whole tree and its basic (or also its tuned) fields; nothing where it has none."""
        whole, fields = known_branches(Config)[part], _below(part)
        lines = []
        for name, branch in known_branches(Config).items():
            if f"{name}.".startswith(f"{part}.") and branch.basic and branch.kinds:
                lines += self.choice(branch)
        for leaf in fields:
            if leaf.basic or (tuned and leaf.tuned):
                lines += self.summary(leaf)
        title = f"{part}: {_meaning(whole).rstrip('.')} (all {len(fields)}: --help {part})"
        return ["", *self.wrapped(title, 0, 4), *lines] if lines else []

    def kind(self, leaf: Leaf) -> list[str]:
        """The head of the fields that a part has with one of its kinds."""
        default = known_branches(Config)[leaf.name.removesuffix(".kind")].default_kind == leaf.default
        return [
            "",
            f"  --{leaf.name} {leaf.default}, and its fields:",
            *self.meaning(leaf.meaning, ["the default"] if default else []),
        ]

    def choice(self, branch: Branch) -> list[str]:
        """The kinds of a part, for those who have to choose one."""
        name = f"{branch.name}.kind"
        facts = [f"the fields of each: --help {branch.name}", *self.preset_value(name)]
        shown = "|".join(branch.kinds)
        meaning = branch.meaning if "." in branch.name else "Which of these."  # the title of the part has said it
        return [f"  --{name}  ({shown}; default {branch.default_kind})", *self.meaning(meaning, facts)]

    def leaf(self, leaf: Leaf) -> list[str]:
        """A field with its type and default, all of its docstring, and the bounds that are checked."""
        return [_flag(leaf), *self.meaning(leaf.meaning, [*_bounds(leaf), *self.preset_value(leaf.name, leaf.kind)])]

    def summary(self, leaf: Leaf) -> list[str]:
        """A field with its type and default, the first sentence of its docstring, and what it needs to be there."""
        facts = [f"only with kind {leaf.kind}"] if leaf.kind else []
        facts += self.preset_value(leaf.name, leaf.kind)
        return [_flag(leaf), *self.meaning(_SENTENCE.split(leaf.meaning)[0], facts)]

    def preset_value(self, name: str, kind: str = "") -> list[str]:
        """What the preset says instead of the default, where its part is of this kind."""
        part = name.rpartition(".")[0]
        other = kind and self.values.get(f"{part}.kind", known_branches(Config)[part].default_kind) != kind
        return [] if other or name not in self.values else [f"{self.preset}: {_yaml(self.values[name])}"]

    def meaning(self, text: str, facts: Sequence[str]) -> list[str]:
        """A field's docstring, and in brackets what else is to be known of it."""
        said = f"{text} [{'; '.join(facts)}]" if facts else text
        return self.wrapped(said, 6, 6)

    def wrapped(self, text: str, first: int, others: int) -> list[str]:
        """A paragraph in lines of the page's width, indented."""
        plain = " ".join(text.split())
        return textwrap.wrap(
            plain,
            max(self.width, 40),
            initial_indent=first * " ",
            subsequent_indent=others * " ",
            break_long_words=False,
            break_on_hyphens=False,
        )


def _below(topic: str) -> list[Leaf]:
    return [leaf for leaf in known_leaves(Config) if leaf.name == topic or leaf.name.startswith(f"{topic}.")]


def _chooses(leaf: Leaf) -> bool:
    """Whether a field says which of several parts is meant."""
    return bool(leaf.kind) and leaf.name.endswith(".kind")


def _meaning(branch: Branch) -> str:
    """What a part is about; docstrings of stages begin with the stage's name."""
    return branch.meaning.removeprefix(f"{branch.name}: ")


def _flag(leaf: Leaf) -> str:
    default = "required" if leaf.default is PydanticUndefined else f"default {_yaml(leaf.default)}"
    return f"  --{leaf.name}  ({_words(leaf.annotation)}; {default})"


def _words(annotation: Any) -> str:
    """A type as who types the value has to write it: `true|false`, `list of str`."""
    options = []
    for option in tree.options(annotation):
        first = (*get_args(option), option)[0]
        match get_origin(option) or option:
            case builtins.tuple:
                options.append(f"list of {tree.type_name(first)}")
            case builtins.dict:
                options.append("mapping")
            case builtins.bool:
                options.append("true|false")
            case _:
                options.append(tree.type_name(option))
    return " or ".join(options)


def _bounds(leaf: Leaf) -> list[str]:
    found = []
    for limit in leaf.limits:
        match limit:
            case annotated_types.Ge(ge=value):
                found.append(f"at least {value}")
            case annotated_types.Gt(gt=value):
                found.append(f"above {value}")
            case annotated_types.Le(le=value):
                found.append(f"at most {value}")
            case annotated_types.Lt(lt=value):
                found.append(f"below {value}")
    return [", ".join(found)] if found else []


def _yaml(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=9999).replace("\n...", "").strip()
