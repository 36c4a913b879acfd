"""Files and models that `mllm.engine_args` name: in fingerprints they are what they hold, not where they lie.

A path counts by its content, however deep it stands (`speculative_config: {model: ./draft}`). A model on the hub counts
by its commit, where vLLM looks for one: a tokenizer, a drafting model, LoRA adapters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from fgvr import hub, storage
from fgvr.digests import file_digest, folder_digest

_READ = re.compile(r"(^|_)(tokenizer|model|adapter|lora|weight|file|path|plugin|template)s?$")
"""Arguments whose value may be the bare name of a file or folder; elsewhere `fp8` and `auto` are no folders."""
_WRITTEN = re.compile(r"(^|_)(cache|dump|log|media|save|storage)_|(^|_)dir$")
"""Arguments that name where an engine writes or may read, so that what lies there decides nothing."""
_TOKENIZER: Final = ("tokenizer_config.json", "config.json")
_MODEL: Final = ("config.json",)
_ADAPTER: Final = ("adapter_config.json",)


def by_content(name: str, value: Any, *, bare: bool = False) -> Any:
    """An argument in which `{"files": digest}` stands for every path of a file or folder on this machine.

    Args:
        name: of the argument.
        value: JSON types.
        bare: whether a string without a slash may be a path, too.
    """
    bare = bare or _READ.search(name) is not None
    match value:
        case Mapping():
            return {key: by_content(str(key), inner, bare=bare) for key, inner in value.items()}
        case list():
            return [by_content(name, inner, bare=bare) for inner in value]
        case str() if _WRITTEN.search(name) is None:
            return _content(value, bare=bare)
    return value


def _content(value: str, *, bare: bool) -> Any:
    if not storage.is_local(value) or not (bare or "/" in value or value.startswith("~")):
        return value
    with suppress(OSError, RuntimeError):  # a long text is no path, ~nobody has no folder, a folder may be empty
        place = storage.local_path(value).expanduser()
        if value and place.is_dir():
            return {"files": folder_digest(place)}
        if place.is_file():
            return {"files": file_digest(place)}
    return value


def by_commit(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments in which `{"name", "commit"}` stands for every hub name of a tokenizer, drafting model or adapter.

    A name stays where no commit is known: without a network and with an empty cache, or because it is none of the
    Hugging Face hub's.
    """
    found = dict(arguments)
    if "tokenizer" in found:
        found["tokenizer"] = _named(found["tokenizer"], _TOKENIZER, found.get("tokenizer_revision"))
        if isinstance(found["tokenizer"], dict):
            found.pop("tokenizer_revision", None)  # another spelling of the commit
    if "spec_model" in found:
        found["spec_model"] = _named(found["spec_model"], _MODEL)
    draft = found.get("speculative_config")
    if isinstance(draft, Mapping) and "model" in draft:
        named = {**draft, "model": _named(draft["model"], _MODEL, draft.get("revision"))}
        if isinstance(named["model"], dict):
            named.pop("revision", None)
        found["speculative_config"] = named
    adapters = found.get("default_mm_loras")
    if isinstance(adapters, Mapping):
        found["default_mm_loras"] = {kind: _named(name, _ADAPTER) for kind, name in adapters.items()}
    return found


def with_commits(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for workers that start later: a hub name at the commit that fingerprints hold, where vLLM takes one."""
    found = dict(arguments)
    commit = _commit(found.get("tokenizer"), _TOKENIZER, found.get("tokenizer_revision"))
    if commit is not None:
        found["tokenizer_revision"] = commit
    draft = found.get("speculative_config")
    if isinstance(draft, Mapping):
        commit = _commit(draft.get("model"), _MODEL, draft.get("revision"))
        if commit is not None:
            found["speculative_config"] = {**draft, "revision": commit}
    return found


def _named(value: Any, files: tuple[str, ...], revision: Any = None) -> Any:
    commit = _commit(value, files, revision)
    return value if commit is None else {"name": value, "commit": commit}


def _commit(value: Any, files: tuple[str, ...], revision: Any = None) -> str | None:
    """The commit of a hub name that has one of these files; None for anything else."""
    if not isinstance(value, str) or re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", value) is None or Path(value).exists():
        return None
    for file in files:
        try:
            return hub.commit_of(value, file, revision)
        except hub.HubError:
            continue
    return None
