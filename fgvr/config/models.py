"""The models: multimodal LLMs, CLIP and stand-ins for both, how to reach them, and what each says of itself."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from fgvr.config.base import RUNTIME_ONLY, Part
from fgvr.config.model_names import DEMO_MODEL, HUB, brings_weights, in_folder
from fgvr.config.texts import NameTemplate
from fgvr.config.tree import Basic
from fgvr.config.vectors import Vectors

RUN_REPLIES = "run"
EngineReason = Literal["refused", "empty_answer", "no_label_mass", "request_rejected", "engine_error"]


@dataclass(frozen=True)
class ServerKey:
    """A key that a server wants: the environment variable that holds it, and the server's address."""

    variable: str
    server: str


class Backend(Part, ABC):
    """A multimodal LLM, which says of itself what others want to know, so that nobody tests which kind it is.

    Facts are arguments of the class, and all else is abstract: a further kind cannot be defined or made without
    answering. What takes more than its fields (its files, its workers) is asked of `fgvr.mllm.backends.provider`.
    """

    runs_here: ClassVar[bool]
    """The worker computes the model itself, on its own cores and cards."""
    billed_by_token: ClassVar[bool]
    """Somebody is paid for its tokens, and not for the worker's machine."""
    scores_names: ClassVar[bool]
    """It gives the probability of an answer that it did not give (`fgvr.mllm.backend.NameScorer`)."""
    made_up: ClassVar[bool]
    """No model is asked, and no answer means anything."""

    def __init_subclass__(
        cls, *, runs_here: bool, billed_by_token: bool, scores_names: bool, made_up: bool, **others: Any
    ) -> None:
        super().__init_subclass__(**others)
        cls.runs_here, cls.billed_by_token = runs_here, billed_by_token
        cls.scores_names, cls.made_up = scores_names, made_up

    @property
    @abstractmethod
    def title(self) -> str:
        """What a reader of a report or a table is told of which model it was."""

    @property
    @abstractmethod
    def free(self) -> bool:
        """Whether its answers cost neither money nor noticeable time, so that no bill is worth a warning."""

    @property
    @abstractmethod
    def key(self) -> ServerKey | None:
        """The key that it needs; None: none."""

    @property
    @abstractmethod
    def wait_field(self) -> str | None:
        """The field with the seconds that one request may take; None: an engine's requests take what they take."""

    @abstractmethod
    def keeping(self, folder: str) -> Self:
        """The same, with what it keeps "with the run" (`RUN_REPLIES`) in this folder."""

    @abstractmethod
    def check(self) -> None:
        """Raise ValueError, which begins with the field's name, for a value that could never be asked."""


class WithoutServer:
    """Answers of a backend that asks no server: a base class for one that says so, put before `Backend`."""

    @property
    def key(self) -> ServerKey | None:
        """See Backend."""
        return None

    @property
    def wait_field(self) -> str | None:
        """See Backend."""
        return None

    def keeping(self, folder: str) -> Self:
        """See Backend; it keeps nothing."""
        return self

    def check(self) -> None:
        """See Backend; its fields say all."""


class VllmBackend(WithoutServer, Backend, runs_here=True, billed_by_token=False, scores_names=True, made_up=False):
    """An open model that vLLM runs inside the worker."""

    kind: Literal["vllm"] = "vllm"
    model: Basic[str] = DEMO_MODEL
    """`demo` (the tiny model shipped here), a folder (local or s3://), or a hub name (OpenGVLab/InternVL3_5-8B-HF)."""
    revision: str | None = None
    """Revision of a hub model; null: the newest one when the run starts, whose commit is recorded."""
    adapter: str | None = None
    """Folder of a LoRA adapter (PEFT, safetensors) with which the model answers, known by its content; null: none. Only
    adapters that docs/adapt.md describes are served."""
    adapter_anyway: Annotated[bool, RUNTIME_ONLY] = False
    """Have an adapter answer although its record says that it was not better than the model itself (docs/adapt.md)."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Precision of the weights; auto: as in the checkpoint, but 16 bits for a float32 one."""
    max_model_len: int | None = Field(default=None, ge=16)
    """Longest prompt plus answer, in tokens; null: the model's own limit. Lower it when the KV cache does not fit."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """GPUs that share one model; the workers that ask it reserve as many (`label.workers.num_gpus`). Raise it for a
    model that one GPU cannot hold."""
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    """Share of the GPU's memory that the engine takes, less where engines share a GPU; without effect on a CPU."""
    cpu_kv_cache_gb: float = Field(default=1, gt=0)
    """Memory for the KV cache on a CPU, in GiB; without effect on a GPU."""
    max_num_seqs: int = Field(default=256, ge=1)
    """Requests that the engine processes at the same time. More use a GPU better and need more memory."""
    images_in_flight: int = Field(default=64, ge=1)
    """Images whose answers are computed at the same time; with `image_cache_gb` it bounds the memory for pixels."""
    image_cache_gb: float = Field(default=1, gt=0)
    """Memory for preprocessed images that are kept for further questions about them, in GiB. Lower it when memory is
    short."""
    share_rendering: bool = True
    """Preprocess and expand an image once for all its questions; turned off automatically where a model does not allow
    it."""
    enforce_eager: bool | None = None
    """No compilation and no CUDA graphs: starts faster, runs slower on a GPU; null: only on a CPU."""
    separate_process: bool = False
    """Run the engine in a process of its own. Images are preprocessed by threads beside it in any case, but Python runs
    one thread of a process at a time: worth a try where a small model leaves its GPU idle."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Random seed of the engine; answers at temperature 0 do not depend on it."""
    engine_args: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of vLLM's engine (`vllm.EngineArgs`), under vLLM's names; those that have a field here, and
    those that vLLM does not know, are refused."""

    @property
    def title(self) -> str:
        """See Backend."""
        return self.model

    @property
    def free(self) -> bool:
        """See Backend."""
        return self.model == DEMO_MODEL

    def unused(self) -> Iterator[tuple[str, str]]:
        """See Part: only the hub has revisions."""
        if self.revision is not None and (self.model == DEMO_MODEL or in_folder(self.model)):
            yield "revision", f"{self.model} is no hub model, and only these have revisions; leave it out"
        if self.adapter_anyway and self.adapter is None:
            yield "adapter_anyway", "there is no adapter; name its folder (adapter), or leave this out"


def check_base_url(url: str) -> None:
    """Raises ValueError, with what to write instead, for what cannot be the address of a server."""
    example = "an address looks like http://gpu-machine:8000/v1"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{url!r} is no address ({error}); {example}") from None
    rest = re.sub(r"^\w*:?/+", "", url)
    if rest and ("://" not in url or parts.scheme not in {"http", "https"}):
        raise ValueError(
            f"{url!r} does not begin with http:// or https://: for a server of your own write http://{rest},"
            f" for one with a certificate https://{rest}"
        )
    if not host or re.search(r"\s", url):
        raise ValueError(f"{url!r} names no server; {example}")
    if parts.path.rstrip("/").endswith("/chat/completions"):
        raise ValueError(f"{url!r}: give the address up to and with /v1, without /chat/completions")


class OpenAIBackend(Backend, runs_here=False, billed_by_token=True, scores_names=False, made_up=False):
    """A model behind an OpenAI-compatible server: proprietary models, or `vllm serve` elsewhere."""

    kind: Literal["openai"] = "openai"
    base_url: Basic[str] = "https://api.openai.com/v1"
    """Address of the server, up to and including /v1."""
    model: Basic[str] = Field(min_length=1)
    """Name of the model on that server."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the API key; the key itself never stands in a config. `http://` addresses may
    need none."""
    concurrency: int = Field(default=16, ge=1)
    """Concurrent requests per worker."""
    timeout_seconds: float = Field(default=60, gt=0)
    """Longest time of one request, in seconds, until its reply is complete."""
    max_retries: int = Field(default=6, ge=0)
    """Retries, with growing pauses, after server errors and broken connections; a server that asks to slow down is
    bounded by time instead (`max_wait_minutes`). 0: no retries at all."""
    max_wait_minutes: float = Field(default=15, gt=0)
    """Minutes to wait for a server that asks to slow down (429, Retry-After) and answers no request, before the job
    ends; what is finished is kept, and the same command continues."""
    image_detail: Literal["auto", "low", "high"] = "auto"
    """Level of detail that the server is asked to use, where it offers the choice."""
    max_image_side: int = Field(default=2048, ge=32)
    """Longest side of the images sent, in pixels; larger ones are scaled down. Lower it to pay for fewer tokens."""
    answer_logprobs: bool = False
    """Request the log-probability of answers; not every server provides it."""
    top_logprobs: int = Field(default=20, ge=2, le=20)
    """Number of most probable first tokens requested in aspects; a server may allow fewer (5)."""
    reply_cache: str | None = RUN_REPLIES
    """Where good replies are kept, by the content of their request, so that none is paid for twice: `run` (`replies/`
    in the run folder), a folder or URL that several runs share, or null: nowhere. Failures are never kept."""

    @property
    def title(self) -> str:
        """See Backend."""
        return self.model

    @property
    def free(self) -> bool:
        """See Backend."""
        return False

    @property
    def key(self) -> ServerKey | None:
        """See Backend."""
        return None if self.base_url.lower().startswith("http://") else ServerKey(self.api_key_env, self.base_url)

    @property
    def wait_field(self) -> str | None:
        """See Backend."""
        return "timeout_seconds"

    def keeping(self, folder: str) -> Self:
        """See Backend."""
        return self.model_copy(update={"reply_cache": folder}) if self.reply_cache == RUN_REPLIES else self

    def check(self) -> None:
        """See Backend; not while it is built, as whoever connects says the same."""
        try:
            check_base_url(self.base_url)
        except ValueError as error:
            raise ValueError(f"base_url: {error}") from None


class SimulatedBackend(WithoutServer, Backend, runs_here=True, billed_by_token=False, scores_names=True, made_up=True):
    """No model at all: made-up answers after a modelled time, to measure how a run scales. Never a default."""

    kind: Literal["simulated"] = "simulated"
    names: int = Field(default=1000, ge=1)
    """Number of kinds of things; a hash of an image's content decides which kind it shows."""
    accuracy: float = Field(default=0.7, ge=0, le=1)
    """Share of answers that name the image's own kind; the others name any other."""
    rare_names: float = Field(default=0.002, ge=0, le=1)
    """Share of answers with a name that no other image gets, like the inventions of a real model."""
    request_seconds: float = Field(default=0, ge=0)
    """Time per request without its tokens, in seconds."""
    tokens_per_second: float | None = Field(default=None, gt=0)
    """Output tokens per second of one request; null: tokens take no time."""
    concurrency: int = Field(default=64, ge=1)
    """Requests that an engine processes at the same time; others wait."""
    start_seconds: float = Field(default=0, ge=0)
    """Time that loading takes, in seconds."""
    failures: dict[EngineReason, float] = Field(default_factory=dict)
    """Shares of images that fail, by reason; the same images in every run."""
    seed: int = Field(default=0, ge=0)
    """Random seed of the answers."""

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if any(share < 0 for share in self.failures.values()) or sum(self.failures.values()) > 1:
            given = ", ".join(f"{reason} {share:g}" for reason, share in self.failures.items())
            raise ValueError(f"failures ({given}): shares are at least 0 and add up to at most 1")
        return self

    @property
    def title(self) -> str:
        """See Backend."""
        return self.kind

    @property
    def free(self) -> bool:
        """See Backend."""
        return True


Mllm = Annotated[VllmBackend | OpenAIBackend | SimulatedBackend, Field(discriminator="kind")]


class Clip(Part):
    """clip: the CLIP model (open_clip) of embeddings, zero-shot classification and prompt learning."""

    model: Basic[str] = DEMO_MODEL
    """`demo` (the tiny model shipped here), an open_clip name (ViT-B-16-quickgelu), a local-dir folder, or a hub name
    (hf-hub:timm/ViT-B-16-SigLIP)."""
    revision: str | None = None
    """Revision of a hub model; null: the newest one when the run starts, whose commit is recorded."""
    pretrained: Basic[str | None] = None
    """open_clip's tag of the weights (openai, laion2b_s34b_b88k …) or a file, local or s3://; null for `demo` and
    folders."""
    template: NameTemplate = "a photo of a {}."
    """Prompt of zero-shot classification; {} is replaced by the name."""

    def unused(self) -> Iterator[tuple[str, str]]:
        """See Part: weights besides those that the model brings, and a revision outside the hub."""
        if self.pretrained is not None and (self.model == DEMO_MODEL or brings_weights(self.model)):
            yield (
                "pretrained",
                f"the model {self.model} has weights of its own; leave pretrained out, or name as model the "
                "architecture that these weights are of (ViT-B-16-quickgelu)",
            )
        if self.revision is not None and not self.model.startswith(HUB):
            yield "revision", f"{self.model} is no hub model, and only these ({HUB}…) have revisions; leave it out"


MADE_UP_KINDS = frozenset(
    str(part.model_fields["kind"].default)
    for union in (Mllm, Vectors)
    for part in get_args(get_args(union)[0])
    if part.made_up
)
"""Kinds under which no model is asked, as they stand in what decides a table."""
