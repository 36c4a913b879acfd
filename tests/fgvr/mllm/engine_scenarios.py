"""Runs in a process of its own: a real vLLM engine does what the tests then judge. Usage: script FOLDER OUT [TEXT].

vLLM changes its process for good (thread settings, process groups), which other tests would notice.
"""

import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from scenario_inputs import CHOICES, NAMES, ODD_QUESTIONS, QUESTIONS, drawn, small

from fgvr import schemas
from fgvr.config.data import ImageLimits
from fgvr.config.makd import ASPECT_INSTRUCTION
from fgvr.images.pictures import Picture
from fgvr.mllm.backend import Answer, AspectAnswer, AspectTask, EngineDead, ImageRequest, NameAnswer, NameTask, Sampling
from fgvr.mllm.choices import ChoiceAnswer
from fgvr.mllm.label_worker import LabelSettings, LabelWorker
from fgvr.mllm.look_worker import LookSettings, LookWorker, part_rows
from fgvr.mllm.prompts import image_conversation, text_conversation
from fgvr.mllm.scoring_workers import AspectSettings, AspectWorker
from fgvr.mllm.vllm_engine import engine as vllm_backend
from fgvr.mllm.vllm_engine.engine import QuestionRejected, VllmEngine
from fgvr.mllm.vllm_engine.model_files import ModelError
from fgvr.mllm.vllm_engine.prompts import PlainPrompts, SplicedPrompts
from fgvr.mllm.vllm_engine.scoring import AspectLoop
from fgvr.mllm.yes_no import AnswerWordError

TASK = AspectTask(QUESTIONS, ASPECT_INSTRUCTION)


class Scenarios:
    def __init__(self, folder: Path, scratch: Path) -> None:
        self.engine = VllmEngine(small(folder))
        self.config = small(folder)
        self.scratch = scratch
        self.pictures = [Picture.of(drawn(seed)) for seed in range(5)]

    def aspects_in_both_orders(self) -> Any:
        return {
            order: [
                plain(answer)
                for answer in self.engine.aspects(self.pictures, AspectTask(QUESTIONS, "Yes or No.", order))
            ]
            for order in ("shared_prefix", "paper")
        }

    def aspects_again(self) -> Any:
        first = self.engine.aspects(self.pictures, TASK)
        again = self.engine.aspects(self.pictures, TASK)
        return {"first": [plain(a) for a in first], "again": [plain(a) for a in again]}

    def plain_prompts(self) -> Any:
        """The same questions, each rendered on its own."""
        spliced = self.engine._tasks[TASK]
        assert isinstance(spliced.prompts, SplicedPrompts)
        whole = PlainPrompts(self.engine._prompts, spliced.prompts._questions)
        loop = AspectLoop(self.engine._loop, whole, spliced.tokens, questions=len(QUESTIONS))
        same = [
            one["prompt_token_ids"] == other["prompt_token_ids"]
            for one, other in zip(spliced.prompts.inputs(self.pictures[0]), whole.inputs(self.pictures[0]), strict=True)
        ]
        return {"same_ids": same, "answers": [plain(a) for a in loop.run(self.pictures)]}

    def splicing_that_goes_wrong(self) -> Any:
        """The ids are right, but the pixels of another image are meant: only the answers can tell."""
        task = AspectTask(QUESTIONS, "Yes or No, please.")
        splice = SplicedPrompts._splice

        def wrong(prompts: SplicedPrompts, rendered: Any) -> Iterator[Any]:
            yield rendered
            hashes = self.engine._prompts.with_picture(prompts._questions[0], self.pictures[1])["mm_hashes"]
            yield from ({**prompt, "mm_hashes": hashes} for prompt in list(splice(prompts, rendered))[1:])

        SplicedPrompts._splice = wrong  # type: ignore[method-assign]
        try:
            found = self.engine.aspects(self.pictures, task)
        finally:
            SplicedPrompts._splice = splice  # type: ignore[method-assign]
        expected = self.engine.aspects(self.pictures, replace(task, questions=QUESTIONS[:-1]))
        kinds = [type(self.engine._tasks[task].prompts).__name__ for task in self.engine._tasks][-2:]
        return {"kinds": kinds, "found": [plain(a) for a in found], "expected": [plain(a) for a in expected]}

    def pixels_lost_on_the_way(self) -> Any:
        """The engine forgets all images while their questions go in."""
        fresh = [Picture.of(drawn(seed)) for seed in range(20, 23)]
        expected = self.engine.aspects(fresh, TASK)
        cache = self.engine._llm.llm_engine.engine_core.engine_core.mm_receiver_cache
        wait = self.engine._loop.wait

        def forgetful(at_most: int = 0) -> None:
            cache.clear_cache()
            wait(at_most)

        self.engine._loop.wait = forgetful  # type: ignore[method-assign]
        found = self.engine.aspects(fresh, TASK)
        self.engine._loop.wait = wait  # type: ignore[method-assign]
        return {"expected": [plain(a) for a in expected], "found": [plain(a) for a in found]}

    def inputs_of_threads(self) -> Any:
        """Engine inputs that three threads make at once, beside those of vLLM's own renderer."""
        prompts, renderer = self.engine._prompts, self.engine._llm.renderer
        ids = prompts.ids(image_conversation())
        pictures = [Picture.of(drawn(50 + seed)) for seed in range(12)]
        with ThreadPoolExecutor(3) as pool:
            made = list(pool.map(lambda picture: prompts.with_picture(ids, picture), pictures))
        found = []
        for picture, ours in zip(pictures, made, strict=True):
            asked = {"prompt_token_ids": ids, "multi_modal_data": {"image": picture.image}}
            asked |= {"multi_modal_uuids": {"image": [picture.content_id]}}
            (theirs,) = renderer.render_cmpl([asked], skip_mm_cache=True)
            found.append(_facts(ours) == _facts(theirs))
        again = prompts.with_picture(ids, pictures[-1])
        return {"same": found, "again": again["mm_kwargs"]["image"], "ids": _facts(again)[1] == _facts(made[-1])[1]}

    def labels(self) -> Any:
        requests = [ImageRequest(picture, image_conversation(), Sampling(6)) for picture in self.pictures]
        return [asdict(answer) for answer in self.engine.label(requests)]

    def sampled_labels(self) -> Any:
        """The same seeds give the same answers, in any company."""

        def ask(seeds: list[int]) -> list[str | None]:
            samplings = [Sampling(8, 1.0, seed) for seed in seeds]
            requests = [ImageRequest(self.pictures[0], image_conversation(), sampling) for sampling in samplings]
            return [answer.text for answer in self.engine.label(requests)]

        return {"together": ask([1, 2, 3, 4]), "alone": ask([3])}

    def structured_answers(self) -> Any:
        """Held to the form of one name and of two; to one that is no form; and free again in between."""

        def ask(names: int | None, tokens: int) -> list[dict[str, Any]]:
            sampling = Sampling(tokens, structured=names)
            requests = [ImageRequest(picture, image_conversation(), sampling) for picture in self.pictures[:2]]
            return [asdict(answer) for answer in self.engine.label(requests)]

        pattern, broken = vllm_backend.answer_pattern, "(" * 3
        vllm_backend.answer_pattern = lambda _: broken
        refused = message_of(ModelError, lambda: ask(7, 4))
        vllm_backend.answer_pattern = pattern
        vllm_backend.answer_pattern = lambda _: r'\{"name": "(?:Wren|Robin)"\}'
        short = ask(5, 40)  # a random model never ends a name of any length by itself
        vllm_backend.answer_pattern = pattern
        return {"one": ask(1, 24), "free": ask(None, 6), "two": ask(2, 40), "short": short, "refused": refused}

    def name_scores(self) -> Any:
        task = NameTask(NAMES, "Name it")
        answers = self.engine.name_scores(self.pictures, task)
        branches = len(self.engine._names[task]._params)
        return {"answers": [named(answer) for answer in answers], "branches": branches}

    def names_of_an_odd_picture(self) -> Any:
        odd = Picture("no image", "odd names")  # type: ignore[arg-type]
        answers = self.engine.name_scores([self.pictures[0], odd, self.pictures[1]], NameTask(NAMES, "Name it"))
        return [named(answer) for answer in answers]

    def one_request_too_long(self) -> Any:
        prompts = ["Name it", "Name it " * 400, "Name it"]
        requests = [ImageRequest(self.pictures[0], image_conversation(prompt), Sampling(2)) for prompt in prompts]
        answers = self.engine.label(requests)
        return {"answers": [asdict(answer) for answer in answers], "unfinished": self.engine._loop.unfinished}

    def one_odd_picture(self) -> Any:
        """A picture that the processor cannot work with fails alone."""
        odd = Picture("no image", "odd")  # type: ignore[arg-type]
        answers = self.engine.aspects([self.pictures[0], odd, self.pictures[1]], TASK)
        labels = self.engine.label(
            [ImageRequest(p, image_conversation(), Sampling(2)) for p in (odd, self.pictures[0])]
        )
        return {"aspects": [plain(a) for a in answers], "labels": [asdict(a) for a in labels]}

    def question_too_long(self) -> Any:
        return message_of(
            QuestionRejected, lambda: self.engine.aspects(self.pictures, AspectTask(("Is it? " * 400,), "i"))
        )

    def odd_questions(self) -> Any:
        return [plain(answer) for answer in self.engine.aspects(self.pictures[:2], AspectTask(ODD_QUESTIONS, "i"))]

    def words_of_several_tokens(self) -> Any:
        task = replace(TASK, words=("Perhaps", "No"))
        return message_of(AnswerWordError, lambda: self.engine.aspects(self.pictures, task))

    def workers_with_a_corrupt_image(self) -> Any:
        good, corrupt = self.scratch / "good.png", self.scratch / "corrupt.jpg"
        drawn(0).save(good)
        drawn(1).save(corrupt, quality=90)
        corrupt.write_bytes(corrupt.read_bytes()[:600])
        uris = [str(good), str(corrupt), str(self.scratch / "missing.png"), str(good)]
        rows = pa.table({"image_id": [3, 5, 8, 9], "uri": uris})
        settings = LabelSettings(self.config, "Name it", Sampling(3), ImageLimits())
        labelled = LabelWorker(settings, self.engine).process(rows)
        asked = AspectSettings(TASK, 0.0, ImageLimits())
        strict = AspectSettings(TASK, 0.9, ImageLimits())
        both = LookSettings(settings, asked, np.array([3, 5, 8, 9]), np.array([3, 5, 8, 9]))
        looks = LookWorker(both, self.engine).process(rows)
        return {
            "labels_of_one_pass": part_rows(looks, "answer", schemas.ANSWERS).to_pylist(),
            "aspects_of_one_pass": part_rows(looks, "aspects", schemas.aspects(len(QUESTIONS))).to_pylist(),
            "labels": labelled.to_pylist(),
            "aspects": AspectWorker(asked, self.engine).process(rows).to_pylist(),
            "no_mass": AspectWorker(strict, self.engine).process(rows).to_pylist(),
        }

    def text_only(self) -> Any:
        answers = self.engine.generate([text_conversation("Hello"), text_conversation("Hello " * 900)], Sampling(4))
        return [asdict(answer) for answer in answers]

    def choices_by_name(self) -> Any:
        """Of two classes, and of one whose name is too long for the model between them."""
        return [chosen(each) for each in self.engine.choices([NAMES[0], "Wren " * 300, NAMES[2]], CHOICES)]

    def bounded_pictures(self) -> Any:
        """Pictures are drawn from the iterable only as the engine gets on: how many are drawn and not answered."""
        drawn_at: list[int] = []
        config, loop = self.engine._config, self.engine._loop
        self.engine._config = config.model_copy(update={"images_in_flight": 2})

        def requests(each: int = 1) -> Iterator[ImageRequest]:
            before = loop._number
            for seed in range(24):
                drawn_at.append(1 + seed - (loop._number - before - loop.unfinished) // each)
                yield ImageRequest(Picture.of(drawn(100 + seed)), image_conversation(), Sampling(2))

        def pictures() -> Iterator[Picture]:
            return (request.picture for request in requests(len(QUESTIONS)))

        self.engine.label(requests())
        labels = list(drawn_at)
        drawn_at.clear()
        self.engine.aspects(pictures(), replace(TASK, instruction="Two images."))
        self.engine._config = config
        return {"label": labels, "aspects": drawn_at}

    def dead_engine(self) -> Any:
        """Last: a step fails."""

        def step() -> None:
            raise RuntimeError("out of memory")

        self.engine._llm.llm_engine.step = step
        return message_of(EngineDead, lambda: self.engine.aspects(self.pictures, TASK))


def _facts(rendered: Any) -> list[Any]:
    """All of an engine input that can be compared."""
    (item,) = rendered["mm_kwargs"]["image"]
    pixels = {} if item is None else {name: torch.as_tensor(part.data).tolist() for name, part in item.items()}
    places = [(place.offset, place.length) for place in rendered["mm_placeholders"]["image"]]
    return [rendered["type"], rendered["prompt_token_ids"], dict(rendered["mm_hashes"]), places, pixels]


def plain(answer: AspectAnswer) -> dict[str, Any]:
    failure = None if answer.failure is None else answer.failure.as_row()
    return {
        **asdict(answer),
        "p_yes": answer.p_yes.tolist(),
        "label_mass": answer.label_mass.tolist(),
        "failure": failure,
    }


def named(answer: NameAnswer) -> dict[str, Any]:
    failure = None if answer.failure is None else answer.failure.as_row()
    return {**asdict(answer), "scores": answer.scores.tolist(), "failure": failure}


def chosen(answer: ChoiceAnswer) -> dict[str, Any]:
    failure = None if answer.failure is None else answer.failure.as_row()
    shares = [each.tolist() for each in answer.probabilities]
    return {**asdict(answer), "probabilities": shares, "label_mass": answer.label_mass.tolist(), "failure": failure}


def message_of(kind: type[Exception], work: Callable[[], object]) -> str:
    try:
        work()
    except kind as error:
        return str(error)
    return "nothing was raised"


def text_model(folder: Path) -> list[Any]:
    engine = VllmEngine(small(folder), vision=False)
    answers: list[Answer] = engine.generate([text_conversation("Hello", "Be brief")] * 2, Sampling(5))
    assert [answer.failure for answer in engine.choices(["Wren"], CHOICES)] == [None]
    return [asdict(answer) for answer in answers]


def main() -> None:
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    scenarios = Scenarios(folder, out.parent)
    names = [name for name in vars(Scenarios) if not name.startswith("_")]
    results = {name: getattr(scenarios, name)() for name in names}
    if len(sys.argv) > 3:
        scenarios.engine.close()
        results["text_model"] = text_model(Path(sys.argv[3]))
    out.write_text(
        json.dumps(results, default=lambda value: value.item() if isinstance(value, np.generic) else str(value))
    )


if __name__ == "__main__":
    main()
