r"""Aspect extraction: all questions about an image through our engine, beside the paper's way and plain vLLM.

    OMP_NUM_THREADS=1 VLLM_CPU_OMP_THREADS_BIND=nobind python -m benchmarks.speed.aspect_extraction
    OMP_NUM_THREADS=1 VLLM_CPU_OMP_THREADS_BIND=nobind python -m benchmarks.speed.aspect_extraction --model 12m \
        --images 4 --paper-images 1 --side 1000

Three ways from decoded images to p(yes) of 50 questions each, in one process and in turns:

- *transformers*: the paper's way, one forward of a whole prompt a question, batch 1, in bf16 or fp32, whichever is
  quicker here (without the paper's 30 new tokens, so it is flattered). It gets fewer images: `--paper-images`;
- *LLM.generate, 20 log-probs*: as one would write it first. All requests in one call, one a question, image after
  image, `logprobs=20`, vLLM's default block size on a CPU (128 tokens) with its prefix cache on; an engine of its own;
- *LLM.generate, exact*: the same call in *our* engine with its blocks of 32 tokens, and our sampling parameters: the
  two words' exact log-probabilities, no detokenising, final outputs only. Rendering and request loop are vLLM's;
- *ours*: `VllmEngine.aspects`; caches are emptied between the ways, and every round has new images.

CPU seconds of this process (the engine runs in it), since other work may run beside; wall seconds next to them. Medians
of `--repeat` rounds. Then: the largest differences of p(yes), the share of prompt tokens from the prefix cache against
what whole blocks allow, where our time goes, and what the paper's order of the prompt changes.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from benchmarks import harness
from benchmarks.speed.aspect_model import SIDE, build_model
from fgvr.config.makd import ASPECT_INSTRUCTION
from fgvr.config.models import VllmBackend
from fgvr.demo.paths import MLLM_PATH
from fgvr.demo.questions import QUESTIONS
from fgvr.demo.samples import DEMO_DIFFICULTY, sample
from fgvr.images.pictures import Picture
from fgvr.mllm.backend import AspectTask
from fgvr.mllm.prompts import aspect_conversation, render
from fgvr.mllm.vllm_engine.engine import VllmEngine
from fgvr.mllm.vllm_engine.scoring import first_token_params
from fgvr.mllm.vllm_engine.start import CPU_BLOCK_SIZE
from fgvr.mllm.yes_no import AnswerTokens, probability_of_yes

Probabilities = npt.NDArray[np.float64]
"""p(yes), [images, questions]."""
Way = Callable[[list[Image.Image]], Probabilities]

STEPS = {
    "preprocessing, expansion (HF processor)": ("render_cmpl",),
    "taking requests in": ("add_request",),
    "scheduling, prefix cache": ("schedule", "update_from_output"),
    "the model": ("execute_model", "sample_tokens"),
    "finished requests out": ("process_outputs", "add"),
}
"""Functions whose cumulative time is one line of the profile; none calls another."""


def questions(count: int) -> tuple[str, ...]:
    """The field guide's, then further ones of the same length."""
    parts = ("throat", "rump", "breast", "nape", "back", "forehead", "chin", "flank", "shoulder", "cheek")
    more = [f"Is the {part} of the bird {colour}?" for colour in ("blue", "black", "white") for part in parts]
    texts = [question.text for question in QUESTIONS] + more
    if count > len(texts):
        raise SystemExit(f"--questions: there are {len(texts)}")
    return tuple(texts[:count])


def drawings(seed: int, count: int, side: int) -> list[Image.Image]:
    """Birds of the demo, scaled to the model's input size."""
    birds = [sample(seed, "test", index, difficulty=DEMO_DIFFICULTY).image for index in range(count)]
    return [Image.fromarray(bird).resize((side, side)) for bird in birds]


class PlainTransformers:
    """One forward pass per question."""

    def __init__(self, folder: Path, task: AspectTask) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.processor = AutoProcessor.from_pretrained(folder)
        conversations = [aspect_conversation(text, task.order, task.instruction) for text in task.questions]
        self.prompts = [render(self.processor, conversation) for conversation in conversations]
        self.tokens = AnswerTokens.resolve(self.processor.tokenizer, self.prompts[0])
        self.models = {
            dtype: AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype).eval()
            for dtype in (torch.float32, torch.bfloat16)
        }
        image = drawings(10**6, 1, 64)[0]
        seconds = {dtype: min(self._cpu_seconds(image, dtype) for _ in range(2)) for dtype in self.models}
        self.dtype = min(seconds, key=lambda dtype: seconds[dtype])

    def _cpu_seconds(self, image: Image.Image, dtype: torch.dtype) -> float:
        started = time.process_time()
        self.ask(image, 3, dtype)
        return time.process_time() - started

    @torch.inference_mode()
    def ask(self, image: Image.Image, count: int, dtype: torch.dtype) -> list[float]:
        """p(yes) of the first `count` questions about an image."""
        found = []
        for prompt in self.prompts[:count]:
            inputs = self.processor(images=image, text=prompt, return_tensors="pt").to(dtype)
            logits = self.models[dtype](**inputs, logits_to_keep=1).logits[0, -1].float()
            yes, no = torch.log_softmax(logits, -1)[[self.tokens.yes, self.tokens.no]].tolist()
            found.append(probability_of_yes(yes, no)[0])
        return found

    def __call__(self, images: list[Image.Image]) -> Probabilities:
        """p(yes) of all questions about all images."""
        return np.array([self.ask(image, len(self.prompts), self.dtype) for image in images])

    def exact(self, images: list[Image.Image]) -> Probabilities:
        """p(yes) in fp32, not timed."""
        return np.array([self.ask(image, len(self.prompts), torch.float32) for image in images])


class PlainGenerate:
    """`LLM.generate` of an engine; p(yes) is NaN where the parameters did not give both words' log-probabilities."""

    def __init__(self, engine: VllmEngine, reference: PlainTransformers, params: Any) -> None:
        self.llm, self.prompts, self.tokens, self.params = engine._llm, reference.prompts, reference.tokens, params

    def __call__(self, images: list[Image.Image]) -> Probabilities:
        """p(yes) of all questions about all images."""
        requests = [
            {"prompt": prompt, "multi_modal_data": {"image": image}} for image in images for prompt in self.prompts
        ]
        found = []
        for output in self.llm.generate(requests, self.params, use_tqdm=False):
            first = output.outputs[0].logprobs[0]
            both = [first[token].logprob for token in (self.tokens.yes, self.tokens.no) if token in first]
            found.append(probability_of_yes(*both)[0] if len(both) == 2 else float("nan"))
        return np.array(found).reshape(len(images), len(self.prompts))


class Ours:
    """`VllmEngine.aspects`."""

    def __init__(self, engine: VllmEngine, task: AspectTask) -> None:
        self.engine, self.task = engine, task
        self.cached = self.total = 0

    def __call__(self, images: list[Image.Image]) -> Probabilities:
        """p(yes) of all questions about all images."""
        answers = self.engine.aspects([Picture.of(image) for image in images], self.task)
        failures = [answer.failure for answer in answers if answer.failure is not None]
        if failures:
            raise SystemExit(f"{len(failures)} images failed: {failures[0]}")
        self.cached += sum(answer.cached_tokens or 0 for answer in answers)
        self.total += sum(answer.prompt_tokens for answer in answers)
        return np.array([answer.p_yes for answer in answers], dtype=np.float64)


def allowed_tokens(prompts: list[list[int]]) -> int:
    """Prompt tokens of an image's questions that whole blocks of a prefix cache can serve.

    Of a prompt: the blocks that it has in common with an earlier one; its last token must be computed in any case.
    """
    total = 0
    for place, ids in enumerate(prompts):
        shared = max((common(ids, earlier) for earlier in prompts[:place]), default=0)
        total += min(shared, len(ids) - 1) // CPU_BLOCK_SIZE * CPU_BLOCK_SIZE
    return total


def common(one: list[int], other: list[int]) -> int:
    """Length of the common prefix."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def measure(args: argparse.Namespace, folder: Path, side: int, report: harness.Report) -> None:
    """All ways over all rounds, then what the module's docstring lists behind them."""
    task = AspectTask(questions(args.questions), ASPECT_INSTRUCTION)
    reference = PlainTransformers(folder, task)
    rates: dict[str, list[tuple[float, float]]] = {}

    def run(name: str, way: Way, images: list[Image.Image], engine: VllmEngine) -> Probabilities:
        forget(engine)
        cpu, wall = time.process_time(), time.perf_counter()
        found = way(images)
        spent = time.process_time() - cpu, time.perf_counter() - wall
        rates.setdefault(name, []).append((found.size / spent[0], found.size / spent[1]))
        return found

    first_try(args, folder, side, reference, run)
    config = VllmBackend(model=str(folder), max_model_len=512, cpu_kv_cache_gb=0.5)
    engine = VllmEngine(config)
    ours, exact = (
        Ours(engine, task),
        PlainGenerate(engine, reference, first_token_params((reference.tokens.yes, reference.tokens.no))),
    )
    for way in (exact, ours):  # kernels, and caches of Python's own; transformers has had them
        way(drawings(10**6, 1, side))
    ours.cached = ours.total = 0
    differences = []
    for round_ in range(args.repeat):
        images = drawings(round_, args.images, side)
        few = images[: args.paper_images]
        paper = run(f"transformers, {str(reference.dtype).removeprefix('torch.')}", reference, few, engine)
        plain = run("LLM.generate, exact", exact, images, engine)
        mine = run("ours", ours, images, engine)
        pairs = (mine - plain, mine[: len(few)] - paper, mine[: len(few)] - reference.exact(few))
        differences.append([np.abs(pair).max() for pair in pairs])
    print_rates(rates, args, report)
    worst = np.max(differences, axis=0)
    report.say(
        f"largest |difference| of ours in p(yes): {worst[0]:.2g} to LLM.generate, {worst[1]:.2g} to transformers as"
        f" timed, {worst[2]:.2g} to transformers in fp32; p(yes) itself: {mine.min():.2f} to {mine.max():.2f}"
    )
    ids = [prompt["prompt_token_ids"] for prompt in engine._tasks[task].prompts.inputs(Picture.of(images[0]))]
    allowed = allowed_tokens(ids) * args.images * args.repeat
    report.say(
        f"prompt tokens from the prefix cache: {ours.cached / ours.total:.1%} of all, blocks of {CPU_BLOCK_SIZE} allow"
        f" {allowed / ours.total:.1%}: {ours.cached / allowed:.1%} of that"
    )
    forget(engine)
    profile(lambda: ours(drawings(99, args.images, side)), report)
    orders(engine, drawings(77, args.images, side), task, report)
    engine.close()


def first_try(
    args: argparse.Namespace, folder: Path, side: int, reference: PlainTransformers, run: Callable[..., Probabilities]
) -> None:
    """Plain vLLM with its own block size and the most probable tokens; its engine is gone when ours starts."""
    from vllm import SamplingParams

    blocks = {"block_size": 128}
    engine = VllmEngine(VllmBackend(model=str(folder), max_model_len=512, cpu_kv_cache_gb=0.5, engine_args=blocks))
    generate = PlainGenerate(engine, reference, SamplingParams(max_tokens=1, temperature=0, logprobs=20))
    generate(drawings(10**6, 1, side))
    for round_ in range(args.repeat):
        run("LLM.generate, 20 log-probs", generate, drawings(round_, args.images, side), engine)
    engine.close()


def forget(engine: VllmEngine) -> None:
    """Empty the engine's caches."""
    engine._llm.reset_prefix_cache()
    engine._llm.reset_mm_cache()


def print_rates(found: dict[str, list[tuple[float, float]]], args: argparse.Namespace, report: harness.Report) -> None:
    """The table of rates, medians over the rounds."""
    rates = {name: np.median(rounds, axis=0) for name, rounds in found.items()}
    best = rates["ours"]
    images = f"{args.images} images ({args.paper_images} for transformers)"
    report.say(f"\n{args.questions} questions, {args.repeat} rounds of {images}")
    table = report.table(
        {"": "<28", "requests/CPU s": ">15.1f", "ours": ">8.2f", "requests/wall s": ">17.1f", "ours, wall": ">12.2f"}
    )
    for name, (cpu, wall) in rates.items():
        table.row(name, cpu, best[0] / cpu, wall, best[1] / wall)


def profile(work: Callable[[], object], report: harness.Report) -> None:
    """Print the shares of STEPS in a profiled run, and its costliest functions."""
    profiler = cProfile.Profile()
    profiler.runcall(work)
    stats: dict[Any, Any] = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    total = sum(row[2] for row in stats.values())
    report.say("\nwhere our time goes (profiled, which makes Python code look more expensive)")
    known = 0.0
    for name, functions in STEPS.items():
        spent = sum(longest(stats, function) for function in functions)
        known += spent
        report.say(f"  {spent / total:>6.1%}  {name}")
    report.say(f"  {1 - known / total:>6.1%}  the rest")
    top = sorted(stats.items(), key=lambda item: -item[1][2])[:8]
    report.say("  most expensive functions: " + ", ".join(f"{key[2]} {row[2] / total:.0%}" for key, row in top))


def longest(stats: dict[Any, Any], function: str) -> float:
    """Cumulative seconds of the outermost function of this name in vLLM or fgvr."""
    return max(
        (row[3] for (file, _, name), row in stats.items() if name == function and ("vllm" in file or "fgvr" in file)),
        default=0.0,
    )


def orders(engine: VllmEngine, images: list[Image.Image], task: AspectTask, report: harness.Report) -> None:
    """Correlation of p(yes) between the two orders of the prompt."""
    known = tuple(question.text for question in QUESTIONS)
    both = []
    for order in ("shared_prefix", "paper"):
        asked = Ours(engine, AspectTask(known, task.instruction, order))
        both.append(asked(images))
        report.say(f"order {order}: {asked.cached / asked.total:.1%} of prompt tokens from the prefix cache")
    one, other = both
    report.say(
        f"p(yes) of {one.size} answers, paper's order against shared prefix: correlation"
        f" {np.corrcoef(one.ravel(), other.ravel())[0, 1]:.3f}, mean |difference| {np.abs(one - other).mean():.3f},"
        f" same side of 0.5 {np.mean((one > 0.5) == (other > 0.5)):.1%}"
    )


def main() -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__)
    parser.add_argument("--model", choices=["demo", "12m"], default="demo", help="demo: 16 image tokens, 12m: 256")
    parser.add_argument("--questions", type=int, default=50, help="Q")
    parser.add_argument("--images", type=int, default=24, help="a round")
    parser.add_argument("--paper-images", type=int, default=2, help="of these, so many for transformers")
    parser.add_argument("--repeat", type=int, default=3, help="rounds")
    parser.add_argument("--side", type=int, help="of the images, pixels; default: the model's input size")
    args = parser.parse_args()
    with harness.reporting(args) as report, tempfile.TemporaryDirectory() as scratch:
        if args.model == "demo":
            measure(args, MLLM_PATH, args.side or 64, report)
            return
        size = build_model(Path(scratch), MLLM_PATH)
        report.say(f"{size / 1e6:.1f} million parameters, random")
        measure(args, Path(scratch), args.side or SIDE, report)


if __name__ == "__main__":
    main()
