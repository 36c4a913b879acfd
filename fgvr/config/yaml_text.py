"""YAML as a config needs it: a duplicate field is an error, and every error is one line of text that names its line."""

from __future__ import annotations

import os
import re
from typing import Any

import yaml

_ODD_NUMBER = re.compile(r"[-+]?(?:0[0-9_]+|[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?)")
"""YAML 1.1 reads 020 as 16 and 1:30 as 90."""
_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})(?=/|$)")


class YamlError(ValueError):
    """Text that is not YAML; the message names the line where it can."""


class FieldError(YamlError):
    """A field that occurs twice, has no value, or whose value begins with a variable that is not set."""


def read_yaml(text: str) -> Any:
    """The content of a YAML document, by the rules of PyYAML's safe loader; raises YamlError.

    That loader silently lets the last of two equal fields win, and takes a field without a value for null, which for
    many fields means "all": both are errors here. A field that a mapping merges (`<<`) may be given again.
    """
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_fields(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        said = "; ".join(part for part in (error.context, error.problem) if part)
        hint = "; YAML is indented with blanks, not with tabs" if "'\\t'" in said else ""
        if "<block end>" in said:
            hint = "; fields of one part begin in the same column"
        raise YamlError(f"{place}{said}{hint}") from None
    except YamlError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # characters that YAML has not, dates that are none
        raise YamlError(" ".join(str(error).split())) from None


def _check_fields(document: yaml.Node) -> None:
    """Raise FieldError for a field that occurs twice or has no value, and for a number that YAML reads as another one.

    Merges (`<<`) are not resolved yet.
    """
    waiting, seen = [document], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:  # an anchor that is used again
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        if isinstance(node, yaml.ScalarNode) and node.style is None and _ODD_NUMBER.fullmatch(node.value):
            line = node.start_mark.line + 1
            raise FieldError(f"line {line}: {node.value} is another number to YAML; write it plainly, a text in quotes")
        if not isinstance(node, yaml.MappingNode):
            continue
        lines: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            waiting += [key, value]
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if (key.tag, key.value) in lines:
                first = lines[key.tag, key.value]
                raise FieldError(f"line {line}: {key.value} stands there twice (line {first}, too); make one of them")
            if isinstance(value, yaml.ScalarNode) and value.value == "" and value.style is None:
                raise FieldError(f"line {line}: {key.value} has no value; give it one, null for none, or leave it out")
            lines[key.tag, key.value] = line


def with_environment(value: Any) -> Any:
    """A tree in which `$NAME/` or `${NAME}/` at the beginning of a text is replaced by the variable's value.

    Raises FieldError where the variable is not set, or empty.
    """
    if isinstance(value, dict):
        return {key: with_environment(item) for key, item in value.items()}
    if isinstance(value, list):
        return [with_environment(item) for item in value]
    found = _VARIABLE.match(value) if isinstance(value, str) else None
    if found is None:
        return value
    name = found[1] or found[2]
    if name not in os.environ:
        raise FieldError(f"{value}: there is no environment variable {name}")
    if not os.environ[name]:  # $SCRATCH/runs would be /runs
        raise FieldError(f"{value}: the environment variable {name} is empty")
    return os.environ[name] + value[found.end() :]
