"""The multimodal LLM inside this process: vLLM's synchronous engine behind the backend protocols."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fgvr.config.models import VllmBackend
from fgvr.errors import UserError
from fgvr.images.pictures import Picture
from fgvr.mllm.backend import Answer, AspectAnswer, AspectTask, EngineDead, ImageRequest, NameAnswer, NameTask, Sampling
from fgvr.mllm.choices import ChoiceAnswer, ChoiceTask
from fgvr.mllm.prompts import Conversation, aspect_conversation, image_conversation
from fgvr.mllm.vllm_engine.choices import ChoiceLoop
from fgvr.mllm.vllm_engine.model_files import ModelError
from fgvr.mllm.vllm_engine.private import client_errors, shut_down, without_pixels
from fgvr.mllm.vllm_engine.prompts import QuestionPrompts, VllmPrompts
from fgvr.mllm.vllm_engine.requests import Done, RequestLoop
from fgvr.mllm.vllm_engine.scoring import REQUESTS_UNDER_WAY, AspectLoop, NameLoop, NameTree, name_ids
from fgvr.mllm.vllm_engine.splice_check import PROBE, question_prompts
from fgvr.mllm.vllm_engine.start import runs_on_cpu, start_engine
from fgvr.mllm.yes_no import AnswerTokens
from fgvr.names.structured import answer_pattern
from fgvr.schemas import Failure, Reason

log = logging.getLogger(__name__)


class QuestionRejected(UserError, ValueError):
    """A question that is too long to be asked about any image."""


class VllmEngine:
    """Implements `MllmBackend`. One engine per process; not thread-safe."""

    def __init__(self, config: VllmBackend, *, vision: bool = True) -> None:
        """Load the model.

        Args:
            config: which model and how.
            vision: whether requests will contain images; if False, a plain language model is accepted, too.

        Raises:
            ModelError: the model cannot be found or run.
            NotEnoughMemory: it would not fit.
        """
        self._config = config
        self._llm, files = start_engine(config, vision=vision)
        trust = bool(config.engine_args.get("trust_remote_code", False))
        self._prompts = VllmPrompts(self._llm, str(files.folder), trust_remote_code=trust)
        self._loop = RequestLoop(self._llm.llm_engine, eager=not runs_on_cpu(), lora=_adapter(config))
        self._tasks: dict[AspectTask, AspectLoop] = {}
        self._names: dict[NameTask, NameLoop] = {}
        self._proven = False
        self._held: set[int | None] = set()

    def label(self, requests: Iterable[ImageRequest]) -> list[Answer]:
        """See `Labeler`."""
        self._prove()
        answers: list[Answer] = []
        most = self._config.images_in_flight - 1
        for group, prompt in self._loop.prepared(self._rendered, _of_a_picture(requests), at_most=most):
            for request in group:
                answers.append(Answer(None, failure=prompt if isinstance(prompt, Failure) else None))
                if not isinstance(prompt, Failure):
                    self._ask(request, prompt, answers)
                    prompt = without_pixels(prompt)  # noqa: PLW2901  # the engine has them for the others
                    self._loop.wait(most)
        self._loop.wait()
        return answers

    def generate(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Answer]:
        """See `TextGenerator`."""
        self._prove()
        answers = [Answer(None)] * len(conversations)
        for place, conversation in enumerate(conversations):
            try:
                prompt = self._prompts.without_picture(self._prompts.ids(conversation))
                self._loop.submit(prompt, answer_params(sampling), _keeper(answers, place))
            except client_errors() as error:
                answers[place] = Answer(None, failure=rejected(error))
        self._loop.wait()
        return answers

    def aspects(self, pictures: Iterable[Picture], task: AspectTask) -> list[AspectAnswer]:
        """See `AspectScorer`.

        Raises:
            AnswerWordError: a word of the task is not one token of this model.
            QuestionRejected: a question is too long for the model.
        """
        self._prove()
        if task not in self._tasks:
            self._tasks[task] = self._prepare(task)
        return self._tasks[task].run(pictures)

    def name_scores(self, pictures: Iterable[Picture], task: NameTask) -> list[NameAnswer]:
        """See `NameScorer`.

        Raises:
            UnanswerableName: a name has no tokens of its own.
            QuestionRejected: prompt and name are too long for the model.
        """
        self._prove()
        if task not in self._names:
            self._names[task] = self._prepare_names(task)
        return self._names[task].run(pictures)

    def choices(self, names: Iterable[str], task: ChoiceTask) -> list[ChoiceAnswer]:
        """See `ChoiceScorer`.

        Raises:
            AnswerWordError: a letter is not one token of this model.
        """
        self._prove()
        return ChoiceLoop(self._loop, self._prompts, task).run(names)

    def forget(self) -> None:
        """Empty the prefix cache: the counts of cached tokens must not depend on earlier stages."""
        self._llm.reset_prefix_cache()

    def close(self) -> None:
        """Shut the engine down and free its memory."""
        shut_down(self._llm)

    def _prepare(self, task: AspectTask) -> AspectLoop:
        conversations = [aspect_conversation(text, task.order, task.instruction) for text in task.questions]
        tokens = AnswerTokens.resolve(self._prompts.tokenizer, self._prompts.text(conversations[0]), task.words)
        ids = [self._prompts.ids(conversation) for conversation in conversations]
        prompts = self._question_prompts(ids, task.questions, tokens)
        under_way = min(REQUESTS_UNDER_WAY, self._config.images_in_flight * len(ids))
        return AspectLoop(self._loop, prompts, tokens, questions=len(ids), requests_under_way=under_way)

    def _prepare_names(self, task: NameTask) -> NameLoop:
        conversation = image_conversation(task.prompt)
        prompt, text = self._prompts.ids(conversation), self._prompts.text(conversation)
        tree = NameTree([name_ids(self._prompts.tokenizer, text, name) for name in task.names])
        ids = [prompt + list(branch.beginning) for branch in tree.branches]
        # Any two tokens are enough to prove that spliced prompts are answered like whole ones.
        tokens = AnswerTokens(tree.branches[0].following[0], tree.branches[-1].following[-1])
        prompts = self._question_prompts(ids, [task.prompt] * len(ids), tokens)
        under_way = min(REQUESTS_UNDER_WAY, self._config.images_in_flight * len(ids))
        return NameLoop(self._loop, prompts, tree, requests_under_way=under_way)

    def _question_prompts(
        self, ids: Sequence[list[int]], texts: Sequence[str], tokens: AnswerTokens
    ) -> QuestionPrompts:
        """Prompts with these ids about any picture; raises QuestionRejected if the longest one is too long."""
        longest = max(range(len(ids)), key=lambda question: len(ids[question]))
        try:
            self._prompts.with_picture(ids[longest], PROBE, whole=True)
        except client_errors() as error:
            raise QuestionRejected(
                f"the engine rejects the question {texts[longest][:100]!r}: {error}; shorten or drop it, or"
                " raise mllm.max_model_len"
            ) from error
        share = self._config.share_rendering
        return question_prompts(self._prompts, ids, share_rendering=share, loop=self._loop, tokens=tokens)

    def _rendered(self, group: list[ImageRequest]) -> tuple[list[ImageRequest], Any]:
        """Requests about a picture with their prompt, or with why it cannot be made."""
        first = group[0]
        try:
            return group, self._prompts.with_picture(self._prompts.ids(first.conversation), first.picture)
        except Exception as error:  # processors and vLLM raise all kinds of errors on odd images
            return group, rejected(error)

    def _ask(self, request: ImageRequest, prompt: Any, answers: list[Answer]) -> None:
        """Submit a request whose answer is appended last; if the engine rejects it, only this request fails."""
        if request.sampling.structured is not None:
            self._prove_held(request.sampling)
        place, ids = len(answers) - 1, self._prompts.ids(request.conversation)

        def whole() -> Any:
            return self._prompts.with_picture(ids, request.picture, whole=True)

        try:
            self._loop.submit(prompt, answer_params(request.sampling), _keeper(answers, place), whole=whole)
        except Exception as error:  # vLLM raises all kinds; errors of the engine surface in `wait`
            answers[place] = Answer(None, failure=rejected(error))

    def _prove(self) -> None:
        """Generate one text token as a test: what fails here would fail for every row, in every process."""
        if self._proven:
            return
        conversation = [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
        try:
            prompt = self._prompts.without_picture(self._prompts.ids(conversation))
            self._loop.submit(prompt, answer_params(Sampling(max_tokens=1)), lambda _: None)
            self._loop.wait()
        except EngineDead as error:
            raise ModelError(f"mllm.model: the engine starts but cannot compute with this model: {error}") from error
        self._proven = True

    def _prove_held(self, sampling: Sampling) -> None:
        """Generate the beginning of a structured answer as a test, as in `_prove`."""
        if sampling.structured in self._held:
            return
        conversation = [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
        prompt = self._prompts.without_picture(self._prompts.ids(conversation))
        try:
            self._loop.submit(prompt, answer_params(replace(sampling, max_tokens=1)), lambda _: None)
            self._loop.wait()
        except Exception as error:  # vLLM's own errors, or those of its structured-output library
            raise ModelError(
                "label.answer = structured: the engine cannot constrain this model's answers (mllm.engine_args."
                f"structured_outputs_config chooses its backend): {error}; set label.answer to free"
            ) from error
        self._held.add(sampling.structured)


def _adapter(config: VllmBackend) -> Any:
    """The adapter that all requests get, as vLLM takes it; None where there is none."""
    if config.adapter is None:
        return None
    from vllm.lora.request import LoRARequest

    return LoRARequest("adapter", 1, str(Path(config.adapter).expanduser().absolute()))


def _of_a_picture(requests: Iterable[ImageRequest]) -> Iterator[list[ImageRequest]]:
    """Requests in order, grouped while picture and prompt stay the same."""
    group: list[ImageRequest] = []
    for request in requests:
        if group and (request.picture is not group[0].picture or request.conversation != group[0].conversation):
            yield group
            group = []
        group.append(request)
    if group:
        yield group


def _keeper(answers: list[Answer], place: int) -> Done:
    """A callback that puts a finished output in its answer's place."""

    def keep(output: Any) -> None:
        answers[place] = answer_of(output)

    return keep


def answer_params(sampling: Sampling) -> Any:
    """Sampling parameters of vLLM for a reply in words; log-probabilities of the sampled tokens only."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    names = sampling.structured
    return SamplingParams(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        seed=sampling.seed if sampling.temperature > 0 else None,
        logprobs=0,
        output_kind=RequestOutputKind.FINAL_ONLY,
        structured_outputs=None if names is None else StructuredOutputsParams(regex=answer_pattern(names)),
    )


def answer_of(output: Any) -> Answer:
    """A finished `vllm.RequestOutput` as an answer."""
    reply = output.outputs[0]
    if reply.finish_reason in {"error", "abort"}:
        return Answer(None, failure=Failure(Reason.ENGINE_ERROR, f"vLLM ended the request: {reply.stop_reason}"))
    tokens = len(reply.token_ids)
    total = reply.cumulative_logprob
    mean = None if total is None or tokens == 0 else float(total) / tokens
    cut = reply.finish_reason == "length"
    return Answer(reply.text, mean, len(output.prompt_token_ids or []), tokens, cut=cut)


def rejected(error: Exception) -> Failure:
    """A request that never reached the model."""
    return Failure(Reason.REQUEST_REJECTED, f"{type(error).__name__}: {error}")
