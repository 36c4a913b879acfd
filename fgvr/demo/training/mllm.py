"""Trains the demo's tiny MLLM from scratch: about 45 minutes on one core.

python -m fgvr.demo.training.mllm --output fgvr/demo/models/mllm
"""

import argparse
from pathlib import Path

import torch

from fgvr.demo.drawn_files import may_take_model
from fgvr.demo.training.dialogue import segments, training_tokenizer
from fgvr.demo.training.drawings import draw_many
from fgvr.demo.training.mllm_language import train_language
from fgvr.demo.training.mllm_model import new_mllm, new_processor, save_mllm
from fgvr.demo.training.mllm_vision import train_vision

DIFFICULTY = (0.5, 1.5)
VISION_STEPS, VISION_DRAWINGS = 2400, 60_000
LANGUAGE_STEPS, LANGUAGE_DRAWINGS = 1500, 60_000


def train_mllm(output: Path, *, seed: int, scale: float) -> None:
    """Train both stages and write the checkpoint; ``scale`` shortens or lengthens everything."""
    torch.manual_seed(seed)
    tokenizer = training_tokenizer()
    model = new_mllm(tokenizer)
    share = min(1.0, scale)
    drawings = draw_many(seed, "mllm", round(VISION_DRAWINGS * share), difficulty=DIFFICULTY, random_share=0.5)
    train_vision(model, drawings, steps=max(1, round(VISION_STEPS * scale)), seed=seed)
    drawings = draw_many(
        seed, "mllm-language", round(LANGUAGE_DRAWINGS * share), difficulty=DIFFICULTY, random_share=0.5
    )
    train_language(model, segments(tokenizer), drawings, steps=max(1, round(LANGUAGE_STEPS * scale)), seed=seed)
    save_mllm(model.eval(), new_processor(tokenizer), output)


def main(arguments: list[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--seed", type=int, default=2000, help="seed of drawings and weights (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on all steps (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    args = parser.parse_args(arguments)
    if not may_take_model(str(args.output)):
        parser.error(f"{args.output}: neither empty nor a model's folder; name another one")
    torch.set_num_threads(args.threads)
    train_mllm(args.output, seed=args.seed, scale=args.scale)


if __name__ == "__main__":
    main()
