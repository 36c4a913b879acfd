"""The models: multimodal LLMs and CLIP, and how to reach them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field

from fgvr.config.base import Part
from fgvr.config.simulated import SimulatedBackend
from fgvr.config.texts import NameTemplate

DEMO_MODEL = "demo"
RUN_REPLIES = "run"


class VllmBackend(Part):
    """An open model that vLLM runs inside the worker."""

    kind: Literal["vllm"] = "vllm"
    model: str = DEMO_MODEL
    """`demo` (the tiny model shipped here), a folder (local or s3://), or a hub name (OpenGVLab/InternVL3_5-8B-HF)."""
    revision: str | None = None
    """Revision of a hub model; null: the newest when the run asks, whose commit stands in its fingerprints."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Precision of the weights; auto: as in the checkpoint, and 16 bits for one in float32."""
    max_model_len: int | None = Field(default=None, ge=16)
    """Longest prompt plus answer, tokens; null: what the model allows."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """GPUs that share one model; the workers that ask it reserve as many (`label.workers.num_gpus`)."""
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    """Share of the GPU's memory that the engine takes, less where engines share one; without effect on a CPU."""
    cpu_kv_cache_gb: float = Field(default=1, gt=0)
    """Memory for the key-value cache on a CPU, GiB; without effect on a GPU."""
    max_num_seqs: int = Field(default=256, ge=1)
    """Requests the engine works on at once."""
    images_in_flight: int = Field(default=64, ge=1)
    """Images whose answers are being computed at once; with `image_cache_gb` it bounds the memory of pixels."""
    image_cache_gb: float = Field(default=1, gt=0)
    """Preprocessed images kept for further questions about them, GiB."""
    share_rendering: bool = True
    """Preprocess and expand an image once for all its questions; turned off by itself where a model does not allow
    it."""
    enforce_eager: bool | None = None
    """No compilation and no CUDA graphs: starts sooner, runs slower on a GPU; null: only on a CPU."""
    separate_process: bool = False
    """The engine in a process of its own, so that preprocessing and a GPU work at the same time."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Of the engine; answers at temperature 0 do not depend on it."""
    engine_args: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of vLLM's engine (`vllm.EngineArgs`), by its own names; those that have a field here, and those
    that it does not know, are refused."""


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


class OpenAIBackend(Part):
    """A model behind an OpenAI-compatible server: proprietary models, or `vllm serve` elsewhere."""

    kind: Literal["openai"] = "openai"
    base_url: str = "https://api.openai.com/v1"
    """The server's address, up to and with /v1."""
    model: str = Field(min_length=1)
    """The model's name at that server."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; the key itself never stands in a config. `http://` may need none."""
    concurrency: int = Field(default=16, ge=1)
    """Requests open at once, a worker."""
    timeout_seconds: float = Field(default=60, gt=0)
    """Limit of one request, from its first byte to the reply's last."""
    max_retries: int = Field(default=6, ge=0)
    """Tries after the first, with growing pauses, for server errors and broken connections; a server that asks to slow
    down is waited for by time instead (`max_wait_minutes`). 0: nothing is tried again, whatever the server asks."""
    max_wait_minutes: float = Field(default=15, gt=0)
    """How long a server that asks to slow down (429, Retry-After) and answers nobody is waited for before the job ends;
    what is finished stays, and the same command goes on."""
    image_detail: Literal["auto", "low", "high"] = "auto"
    """What the server is asked to look at, where it offers the choice."""
    max_image_side: int = Field(default=2048, ge=32)
    """Larger images are scaled down before they are sent; pixels."""
    answer_logprobs: bool = False
    """Ask for the log-probability of answers; not every server gives it."""
    top_logprobs: int = Field(default=20, ge=2, le=20)
    """Most probable first tokens asked for in aspects; a server may allow fewer (5)."""
    reply_cache: str | None = RUN_REPLIES
    """Where good replies are kept by the content of their request, so that none is paid for twice: `run` (`replies/` in
    the run folder), a folder or URL that several runs share, or null: nowhere. Failures are never kept."""


Mllm = Annotated[VllmBackend | OpenAIBackend | SimulatedBackend, Field(discriminator="kind")]


class Clip(Part):
    """The CLIP model of embeddings, zero-shot classification and prompt learning (open_clip)."""

    model: str = DEMO_MODEL
    """`demo` (the tiny model shipped here), an open_clip name (ViT-B-16-quickgelu), a local-dir folder, or a hub name
    (hf-hub:timm/ViT-B-16-SigLIP)."""
    revision: str | None = None
    """Revision of a hub model; null: the newest when the run asks, whose commit stands in its fingerprints."""
    pretrained: str | None = None
    """open_clip's weights tag (openai, laion2b_s34b_b88k …) or a file, local or s3://; null for `demo` and folders."""
    template: NameTemplate = "a photo of a {}."
    """Prompt of zero-shot classification; {} is the name."""
