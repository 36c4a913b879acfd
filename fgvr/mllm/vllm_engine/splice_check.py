"""Proves, before the first image, that spliced prompts get the same answers as whole ones.

Equal token ids are no proof: what a model computes from an image besides its ids (M-RoPE positions in height and width,
the shape of a tile grid) could be lost if the pixels are not sent along. So a few questions about a probe image are
asked both ways.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from fgvr.images.pictures import Picture
from fgvr.mllm.vllm_engine.private import client_errors
from fgvr.mllm.vllm_engine.prompts import CannotSplice, PlainPrompts, QuestionPrompts, SplicedPrompts, VllmPrompts
from fgvr.mllm.vllm_engine.requests import RequestLoop
from fgvr.mllm.vllm_engine.scoring import AspectLoop
from fgvr.mllm.yes_no import AnswerTokens

log = logging.getLogger(__name__)

PROBE = Picture.of(Image.new("RGB", (96, 64), (120, 130, 140)))
WIDE_PROBE = Picture.of(Image.linear_gradient("L").resize((480, 160)).convert("RGB"))
"""Another aspect ratio: more tiles, another grid."""

TOLERANCE = 5e-3
"""Tolerance for p(yes) and label mass. Both ways use the same cached prefix: fp32 gives 0, bf16 a rounding step."""


class WholePrompts(PlainPrompts):
    """Every question with the pixels."""

    def inputs(self, picture: Picture, first: Any = None) -> Iterator[Any]:
        """See QuestionPrompts."""
        for question in range(len(self._questions)):
            yield self.whole(picture, question)


def question_prompts(
    prompts: VllmPrompts,
    questions: Sequence[list[int]],
    *,
    share_rendering: bool,
    loop: RequestLoop,
    tokens: AnswerTokens,
) -> QuestionPrompts:
    """Spliced prompts if requested and proven to give the same answers, else plain ones.

    Args:
        prompts: the model's.
        questions: token ids of the whole prompts, placeholders unexpanded.
        share_rendering: whether spliced prompts are requested.
        loop: of the engine that answers the questions about the probe.
        tokens: the tokens for yes and no.

    Raises EngineDead.
    """
    if share_rendering and len(questions) > 1:
        try:
            spliced = SplicedPrompts(prompts, questions, PROBE)
            longest = max(questions, key=len)
            check_answers(prompts, [questions[0], longest, questions[-1]], loop, tokens)
        except CannotSplice as reason:
            log.warning("this model's images are rendered once per question, not once per image: %s", reason)
        else:
            return spliced
    return PlainPrompts(prompts, questions)


def check_answers(
    prompts: VllmPrompts, questions: Sequence[list[int]], loop: RequestLoop, tokens: AnswerTokens
) -> None:
    """Ask about a probe in spliced and in whole prompts; raises CannotSplice if the answers differ."""
    probe = WIDE_PROBE
    try:
        prompts.with_picture(max(questions, key=len), probe, whole=True)
    except client_errors():  # more tiles than fit into the context; the small probe fits
        probe = PROBE
    spliced = SplicedPrompts(prompts, questions, probe)
    answers = []
    for name, way in (("spliced", spliced), ("whole", WholePrompts(prompts, questions))):
        # Different content names: neither way finds the other's results in the cache.
        picture = replace(probe, content_id=f"{probe.content_id}-{name}")
        (answer,) = AspectLoop(loop, way, tokens, questions=len(questions)).run([picture])
        if answer.failure is not None:
            raise CannotSplice(f"the {name} prompts of a probe failed: {answer.failure.detail}")
        answers.append(np.stack([answer.p_yes, answer.label_mass]))
    one, other = answers
    if not np.allclose(one, other, rtol=0, atol=TOLERANCE, equal_nan=True):
        raise CannotSplice(f"p(yes) of a probe is {one[0]} in spliced prompts and {other[0]} in whole ones")
