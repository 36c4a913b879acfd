import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from fgvr.mllm.vllm_engine.requests import RequestLoop


@dataclass
class Engine:
    """Ends requests as an engine core in a process of its own: those without pixels with an error.

    Attributes:
        asked: prompts in the order in which they came.
        refuses: prompts that `add_request` raises for.
    """

    refuses: dict[str, Exception] = field(default_factory=dict)
    always: bool = False
    asked: list[str] = field(default_factory=list)
    waiting: list[tuple[str, str]] = field(default_factory=list)

    def add_request(self, name: str, prompt: str, params: Any) -> None:
        if prompt in self.refuses:
            raise self.refuses[prompt]
        self.asked.append(prompt)
        self.waiting.append((name, prompt))

    def abort_request(self, names: list[str]) -> None: ...

    def step(self) -> list[Any]:
        name, prompt = self.waiting.pop(0)
        reason = "error" if self.always or prompt.startswith("without") else "stop"
        return [SimpleNamespace(request_id=name, finished=True, outputs=[SimpleNamespace(finish_reason=reason)])]


def asked(engine: Engine, prompts: list[str], *, whole: bool = True) -> list[str]:
    """How each of the prompts ended."""
    ended: dict[int, str] = {}
    loop = RequestLoop(engine)
    for number, prompt in enumerate(prompts):

        def done(output: Any, number: int = number) -> None:
            assert number not in ended
            ended[number] = output.outputs[0].finish_reason

        render = (lambda number=number: f"whole {number}") if whole else None
        loop.submit(prompt, None, done, whole=render)
    loop.wait()
    assert loop.unfinished == 0
    return [ended[number] for number in range(len(prompts))]


def test_an_image_that_the_engine_s_process_has_not_is_sent_again_whole():
    engine = Engine()
    assert asked(engine, ["with 0", "without 1", "with 2", "without 3"]) == ["stop"] * 4
    assert engine.asked == ["with 0", "without 1", "with 2", "without 3", "whole 1", "whole 3"]


def test_it_is_sent_again_once():
    engine = Engine(always=True)
    assert asked(engine, ["without 0"]) == ["error"]
    assert engine.asked == ["without 0", "whole 0"]
    assert asked(Engine(always=True), ["a text"], whole=False) == ["error"]


def test_what_cannot_be_sent_again_fails_with_its_first_error():
    assert asked(Engine(refuses={"whole 0": ValueError("too long")}), ["without 0", "with 1"]) == ["error", "stop"]


def test_an_engine_in_this_process_says_so_at_once():
    from vllm.multimodal.cache import MultiModalCacheMissError  # seven seconds, for the one process that runs this

    missing = MultiModalCacheMissError.__new__(MultiModalCacheMissError)
    engine = Engine(refuses={"without 0": missing})
    assert asked(engine, ["without 0"]) == ["stop"]
    assert engine.asked == ["whole 0"]
    with pytest.raises(MultiModalCacheMissError):
        asked(Engine(refuses={"without 0": missing}), ["without 0"], whole=False)


class Pixels:
    """Items whose pixels are ready only when the engine has been stepped so often."""

    def __init__(self, engine: Engine, after: list[int]) -> None:
        self.engine, self.after, self.steps = engine, after, 0
        step = engine.step

        def counted() -> list[Any]:
            self.steps += 1
            return step()

        engine.step = counted  # type: ignore[method-assign]

    def prepared(self, number: int) -> int:
        end = time.monotonic() + 10
        while self.steps < self.after[number] and time.monotonic() < end:
            time.sleep(0.001)
        return number


def fed(loop: RequestLoop, pixels: Pixels, at_most: int) -> list[int]:
    """Steps made when each item was given out."""
    steps = []
    for number in loop.prepared(pixels.prepared, range(len(pixels.after)), at_most=at_most):
        assert loop.unfinished <= at_most
        steps.append(pixels.steps)
        loop.submit(f"with {number}", None, lambda _: None)
    loop.wait()
    return steps


def test_an_engine_works_on_while_pixels_are_not_ready():
    engine = Engine()
    pixels = Pixels(engine, [0, 0, 1, 3])  # the last one is ready when all others are answered
    assert fed(RequestLoop(engine), pixels, 8)[-1] == 3
    assert pixels.steps == 4


def test_on_a_cpu_it_works_with_half_of_what_it_may_have():
    engine = Engine()
    pixels = Pixels(engine, [0, 0, 0, 0, 0, 1])
    assert fed(RequestLoop(engine, eager=False), pixels, 8) == [0, 0, 0, 0, 0, 1]  # five are more than half
    assert pixels.steps == 6


def test_requests_are_never_more_than_asked_for():
    engine = Engine()
    pixels = Pixels(engine, [0] * 20)
    assert len(fed(RequestLoop(engine, eager=False), pixels, 2)) == pixels.steps == 20
