"""A backend without a model: made-up answers with simulated time and failures, to measure everything around it."""

from __future__ import annotations

import heapq
import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from fgvr.config.models import SimulatedBackend
from fgvr.images.pictures import Picture
from fgvr.mllm.backend import (
    Answer,
    AskedBy,
    AspectAnswer,
    AspectTask,
    BackendRefused,
    ImageRequest,
    MllmBackend,
    NameAnswer,
    NameTask,
    Provider,
    Sampling,
    Size,
)
from fgvr.mllm.choices import ChoiceAnswer, ChoiceTask
from fgvr.mllm.prompts import Conversation
from fgvr.schemas import Failure, Reason
from fgvr.simulation import generator, kind_of, uniforms

log = logging.getLogger(__name__)
IMAGE_TOKENS = 256  # of a tile in InternVL; they are counted but take no time
PROMPT_TOKENS = 16


class EngineClock:
    """Lets one thread feed a simulated engine that serves `concurrency` requests at a time.

    Nothing is computed: a request occupies a slot until its time is over, and the caller sleeps while no slot is free.
    Hundreds of threads would add their own cost; a heap of end times does not.
    """

    def __init__(
        self,
        concurrency: int,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`now` and `sleep`: the real clock, or a test's."""
        self._concurrency, self._now, self._sleep = concurrency, now, sleep
        self._ends: list[float] = []
        self.busy = 0.0
        """Total seconds of all requests so far: divided by concurrency × wall time it is the engine's utilisation."""

    def begin(self, seconds: float) -> None:
        """Wait for a free slot and occupy it for `seconds` from then on; returns at once if one is free."""
        if seconds <= 0:
            return
        start = self._now()
        if len(self._ends) == self._concurrency:
            end = heapq.heappop(self._ends)
            if end > start:
                self._sleep(end - start)
                start = end  # not the wake-up time: an engine's queue does not oversleep
        heapq.heappush(self._ends, start + seconds)
        self.busy += seconds

    def drain(self) -> None:
        """Wait until all requests are done."""
        if self._ends:
            self._sleep(max(0.0, max(self._ends) - self._now()))
        self._ends.clear()


def kind_name(kind: int) -> str:
    """The made-up name of a class, recognisable as such wherever it appears."""
    return f"Simulated Kind {kind}"


def _held(name: str, names: int) -> str:
    """The single name as a structured answer for this many names."""
    return json.dumps({"name": name} if names == 1 else {"names": [{"name": name, "confidence": 100}]})


class SimulatedEngine:
    """Implements `MllmBackend` without seeing anything: an image's content hash decides the answer."""

    def __init__(self, config: SimulatedBackend, clock: EngineClock | None = None) -> None:
        """Log that nothing is real, and wait as long as loading would take."""
        log.warning("mllm.kind = simulated: NO MODEL IS ASKED, every answer is made up")
        self._config = config
        self.clock = clock or EngineClock(config.concurrency)
        if config.start_seconds:
            time.sleep(config.start_seconds)

    def label(self, requests: Iterable[ImageRequest]) -> list[Answer]:
        """See `Labeler`."""
        answers = [self._named(request) for request in requests]
        self.clock.drain()
        return answers

    def aspects(self, pictures: Iterable[Picture], task: AspectTask) -> list[AspectAnswer]:
        """See `AspectScorer`; one request per question."""
        answers = [self._judged(picture, task) for picture in pictures]
        self.clock.drain()
        return answers

    def name_scores(self, pictures: Iterable[Picture], task: NameTask) -> list[NameAnswer]:
        """See `NameScorer`; one request per image, as if its names were one batch."""
        answers = [self._scored(picture, task) for picture in pictures]
        self.clock.drain()
        return answers

    def generate(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Answer]:
        """See `TextGenerator`; raises BackendRefused, since made-up questions would be useless."""
        raise BackendRefused("a simulated model (kind: simulated) writes no text: set questions.file, or take a model")

    def choices(self, names: Iterable[str], task: ChoiceTask) -> list[ChoiceAnswer]:
        """See `ChoiceScorer`; a class's name decides its answers."""
        answers = [self._chosen(name, task) for name in names]
        self.clock.drain()
        return answers

    def _named(self, request: ImageRequest) -> Answer:
        config, content = self._config, request.picture.content_id
        # A sampled answer has its own random stream; at temperature 0 all answers about an image are the same.
        drawn = request.sampling.seed if request.sampling.temperature > 0 else None
        right, other, rare, length = uniforms("name", config.seed, content, drawn)
        tokens = 4 + int(8 * length)
        self.clock.begin(self._seconds(tokens))
        failure = self._failure("name", content)
        if failure is not None:
            return Answer(None, failure=failure)
        kind = kind_of(content, config.names, config.seed)
        if right >= config.accuracy and config.names > 1:
            kind = (kind + 1 + int(other * (config.names - 1))) % config.names
        name = f"Simulated Rarity {content[:12]}" if rare < config.rare_names else kind_name(kind)
        most = request.sampling.max_tokens
        text = name if request.sampling.structured is None else _held(name, request.sampling.structured)
        kept = text if tokens <= most else text[: len(text) * most // tokens]
        return Answer(kept, -2.0 * right, IMAGE_TOKENS + PROMPT_TOKENS, min(tokens, most), cut=tokens > most)

    def _judged(self, picture: Picture, task: AspectTask) -> AspectAnswer:
        config, content, count = self._config, picture.content_id, len(task.questions)
        for _ in range(count):
            self.clock.begin(self._seconds(1))
        failure = self._failure("aspects", content)
        if failure is not None:
            return AspectAnswer(failure=failure)
        kind = kind_of(content, config.names, config.seed)
        of_kind = generator("aspects", config.seed, kind).random(count, dtype=np.float32)
        own = generator("aspects", config.seed, content).random((2, count), dtype=np.float32)
        p_yes = np.clip(of_kind + 0.2 * (own[0] - 0.5), 0, 1)
        prefix = IMAGE_TOKENS + PROMPT_TOKENS
        return AspectAnswer(p_yes, 0.9 + 0.1 * own[1], count * prefix, (count - 1) * prefix)

    def _scored(self, picture: Picture, task: NameTask) -> NameAnswer:
        config, content = self._config, picture.content_id
        self.clock.begin(self._seconds(1))
        failure = self._failure("scores", content)
        if failure is not None:
            return NameAnswer(failure=failure)
        scores = -1.0 - 5.0 * generator("scores", config.seed, content).random(len(task.names), dtype=np.float32)
        return NameAnswer(scores, IMAGE_TOKENS + PROMPT_TOKENS, 0)

    def _chosen(self, name: str, task: ChoiceTask) -> ChoiceAnswer:
        count = len(task.turns)
        for _ in range(count):
            self.clock.begin(self._seconds(1))
        failure = self._failure("choices", name)
        if failure is not None:
            return ChoiceAnswer(failure=failure)
        rng = generator("choices", self._config.seed, name)
        drawn = tuple(rng.dirichlet(np.ones(len(each.options))).astype(np.float32) for each in task.questions)
        return ChoiceAnswer(drawn, np.ones(len(drawn), np.float32), count * PROMPT_TOKENS, 0)

    def _seconds(self, tokens: int) -> float:
        rate = self._config.tokens_per_second
        return self._config.request_seconds + (0.0 if rate is None else tokens / rate)

    def _failure(self, task: str, content: str) -> Failure | None:
        if not self._config.failures:
            return None
        left = uniforms("failure", task, self._config.seed, content, count=1)[0]
        for reason, share in sorted(self._config.failures.items()):
            if left < share:
                return Failure(Reason(reason), "a simulated failure")
            left -= share
        return None


class SimulatedProvider(Provider):
    """See Provider."""

    def __init__(self, config: SimulatedBackend) -> None:
        self._config = config

    def start(self, *, vision: bool) -> MllmBackend:
        """See Provider."""
        return SimulatedEngine(self._config)

    def identity(self) -> dict[str, Any]:
        """See Provider."""
        times = {"request_seconds", "tokens_per_second", "concurrency", "start_seconds"}
        return self._config.model_dump(mode="json", exclude=times)

    def pinned(self) -> SimulatedBackend:
        """See Provider."""
        return self._config

    def check(self, asked: AskedBy) -> None:
        """See Provider; it needs no memory."""

    def image_tokens(self, size: Size) -> None:
        """See Provider; it reads no image."""

    def billions(self) -> None:
        """See Provider."""

    def kept_replies(self) -> None:
        """See Provider."""
