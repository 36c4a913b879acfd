import hashlib
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from fgvr.config import ConfigError, ImageLimits, SimulatedBackend, build
from fgvr.images import pictures as pictures_module
from fgvr.images.pictures import Picture
from fgvr.mllm.backend import AspectTask, BackendRefused, ImageRequest, NameTask, Sampling
from fgvr.mllm.backends import backend_identity, make_backend
from fgvr.mllm.label_worker import LabelSettings, LabelWorker
from fgvr.mllm.prompts import image_conversation, text_conversation
from fgvr.mllm.simulated import EngineClock, SimulatedEngine, kind_name
from fgvr.names.answers import clean_answer
from fgvr.names.structured import StructuredNames, read_structured
from fgvr.schemas import Reason
from fgvr.simulation import kind_of

IMAGE = Image.new("RGB", (2, 2))
REQUEST = ImageRequest(Picture(IMAGE, ""), image_conversation("Name it"), Sampling())
TASK = AspectTask(("Is it red?", "Is it small?"), "Yes or No")


def pictures(count: int) -> list[Picture]:
    return [
        Picture(IMAGE, hashlib.sha256(bytes([number % 256, number // 256])).hexdigest()[:32]) for number in range(count)
    ]


def requests(count: int, **sampling: Any) -> list[ImageRequest]:
    return [replace(REQUEST, picture=picture, sampling=Sampling(**sampling)) for picture in pictures(count)]


def engine(**values: Any) -> SimulatedEngine:
    return SimulatedEngine(SimulatedBackend(**values))


def test_it_is_made_from_a_config_and_says_loudly_what_it_is(caplog: pytest.LogCaptureFixture) -> None:
    made = make_backend(build({"mllm": {"kind": "simulated"}}).mllm)
    assert isinstance(made, SimulatedEngine)
    assert "NO MODEL IS ASKED" in caplog.text
    assert build({}).mllm.kind == "vllm"  # never a default


def test_a_rerun_gives_the_same_answers_and_another_seed_gives_others() -> None:
    first = [answer.text for answer in engine(names=50).label(requests(200))]
    assert first == [answer.text for answer in engine(names=50, request_seconds=1e-4).label(requests(200))]
    other = [answer.text for answer in engine(names=50, seed=1).label(requests(200))]
    assert sum(a == b for a, b in zip(first, other, strict=True)) < 20


def test_so_many_answers_name_the_images_kind() -> None:
    answers = engine(names=50, accuracy=0.8, rare_names=0.1).label(requests(2000))
    kinds = [kind_name(kind_of(picture.content_id, 50, 0)) for picture in pictures(2000)]
    right = np.mean([answer.text == kind for answer, kind in zip(answers, kinds, strict=True)])
    rare = [answer.text for answer in answers if answer.text is not None and "Rarity" in answer.text]
    assert right == pytest.approx(0.72, abs=0.04)  # 0.8 · (1 − 0.1)
    assert len(rare) == pytest.approx(200, abs=60)
    assert len(set(rare)) == len(rare)
    assert all(clean_answer(answer.text) == answer.text for answer in answers)  # the clean-up takes them as names


def test_only_sampled_answers_differ() -> None:
    picture = pictures(1)[0]

    def said(temperature: float) -> set[str | None]:
        asked = [replace(REQUEST, picture=picture, sampling=Sampling(8, temperature, seed)) for seed in range(40)]
        return {answer.text for answer in engine(accuracy=0.5).label(asked)}

    assert len(said(0.0)) == 1
    assert len(said(0.7)) > 5


def test_failures_come_at_their_rates_on_the_same_images() -> None:
    failing = engine(failures={"engine_error": 0.1, "refused": 0.05})
    answers = failing.label(requests(2000))
    reasons = [None if answer.failure is None else answer.failure.reason for answer in answers]
    assert reasons.count(Reason.ENGINE_ERROR) == pytest.approx(200, abs=60)
    assert reasons.count(Reason.REFUSED) == pytest.approx(100, abs=45)
    assert all(answer.text is None for answer in answers if answer.failure is not None)
    again = [None if answer.failure is None else answer.failure.reason for answer in failing.label(requests(2000))]
    assert again == reasons


def test_aspects_are_alike_within_a_kind() -> None:
    answers = engine(names=2).aspects(pictures(60), TASK)
    p_yes = np.array([answer.p_yes for answer in answers])
    assert p_yes.shape == (60, 2)
    assert (p_yes >= 0).all()
    assert (p_yes <= 1).all()
    assert all((answer.label_mass >= 0.9).all() for answer in answers)
    kinds = np.array([kind_of(picture.content_id, 2, 0) for picture in pictures(60)])
    assert max(np.ptp(p_yes[kinds == kind], axis=0).max() for kind in (0, 1)) <= 0.2
    assert (answers[0].prompt_tokens, answers[0].cached_tokens) == (2 * 272, 272)


def test_scores_of_names() -> None:
    (answer,) = engine().name_scores(pictures(1), NameTask(("a", "b", "c"), "Name it"))
    assert answer.scores.shape == (3,)
    assert ((answer.scores <= -1) & (answer.scores >= -6)).all()


def test_it_writes_no_questions() -> None:
    with pytest.raises(BackendRefused, match=r"set questions\.file"):
        engine().generate([text_conversation("Write questions")], Sampling())


def test_time_is_modelled_and_does_not_decide_answers() -> None:
    timed = engine(request_seconds=0.5, tokens_per_second=10, concurrency=2)
    slept: list[float] = []
    timed.clock._sleep = slept.append  # type: ignore[method-assign]
    answers = timed.label(requests(3))
    tokens = [answer.output_tokens for answer in answers]
    assert timed.clock.busy == pytest.approx(sum(0.5 + count / 10 for count in tokens))
    assert len(slept) == 2  # for a place, and at the end
    slow, quick = (SimulatedBackend(request_seconds=seconds) for seconds in (1, 0))
    assert backend_identity(slow) == backend_identity(quick)


def test_wrong_shares_are_refused() -> None:
    with pytest.raises(ConfigError, match="add up to at most 1"):
        build({"mllm": {"kind": "simulated", "failures": {"refused": 0.6, "engine_error": 0.6}}})
    with pytest.raises(ConfigError, match="not_found"):
        build({"mllm": {"kind": "simulated", "failures": {"not_found": 0.1}}})


def test_a_picture_is_known_by_its_pixels(tmp_path: Path) -> None:
    red, also_red, blue = (Picture.of(Image.new("RGB", (4, 4), colour)) for colour in ("red", "red", "blue"))
    answers = engine().label([replace(REQUEST, picture=picture) for picture in (red, also_red, blue)])
    assert answers[0] == answers[1] != answers[2]


class Reads:
    """Counts the images that were read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        monkeypatch.setattr(pictures_module, "read_image", self)

    def __call__(self, uri: str, limits: ImageLimits) -> Image.Image:
        self.count += 1
        return Image.new("RGB", (2, 2), (int(uri) % 256, int(uri) // 256, 0))


def test_a_slow_engine_keeps_few_decoded_images_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    reads, waiting = Reads(monkeypatch), list[int]()

    class Slow(EngineClock):
        begun = 0

        def begin(self, seconds: float) -> None:
            time.sleep(0.002)  # readers have time to run as far ahead as they may
            self.begun += 1
            waiting.append(reads.count - self.begun)

    settings = LabelSettings(SimulatedBackend(), "Name it", Sampling(), ImageLimits(), threads=3)
    worker = LabelWorker(settings, SimulatedEngine(SimulatedBackend(), Slow(1)))
    worker.process(pa.table({"image_id": range(100), "uri": [str(number) for number in range(100)]}))
    assert reads.count == 100
    assert 1 <= max(waiting) <= 2 * 3  # two a thread, however many images a part has


def test_images_are_read_while_the_engine_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine ends an image only once a further one has been read: it would wait for ever if none were."""
    reads, alone = Reads(monkeypatch), list[int]()

    class Beside(EngineClock):
        begun = 0

        def begin(self, seconds: float) -> None:
            self.begun += 1
            deadline = time.monotonic() + 60
            while reads.count <= self.begun < 40:
                if time.monotonic() > deadline:
                    alone.append(self.begun)
                    break
                time.sleep(0.001)

    settings = LabelSettings(SimulatedBackend(), "Name it", Sampling(), ImageLimits(), threads=2)
    worker = LabelWorker(settings, SimulatedEngine(SimulatedBackend(), Beside(1)))
    worker.process(pa.table({"image_id": range(40), "uri": [str(number) for number in range(40)]}))
    assert (reads.count, alone) == (40, [])


def test_answers_are_cut_off_and_held_to_a_form_as_real_ones_are() -> None:
    whole, cut = engine(names=5).label(requests(40)), engine(names=5).label(requests(40, max_tokens=6))
    assert not any(answer.cut for answer in whole)
    assert {answer.cut for answer in cut} == {True, False}
    for long, short in zip(whole, cut, strict=True):
        assert short.cut == (long.output_tokens > 6)
        assert (short.text == long.text) == (not short.cut)
        assert short.output_tokens == min(6, long.output_tokens)
    for names in (1, 3):
        held = engine(names=5).label(requests(40, structured=names))
        found = [read_structured(answer.text or "", names) for answer in held]
        assert [said.names for said in found if isinstance(said, StructuredNames)] == [(a.text,) for a in whole]
