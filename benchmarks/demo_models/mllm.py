"""Trains the demo's tiny MLLM from scratch: about 45 minutes on one core.

python -m benchmarks.demo_models.mllm --output fgvr/demo/models/mllm
"""

from pathlib import Path

import torch

from benchmarks.demo_models.drawings import DIFFICULTY, draw_many
from benchmarks.demo_models.mllm_language import segments, train_language, training_tokenizer
from benchmarks.demo_models.mllm_model import new_mllm, new_processor, save_mllm, train_vision
from benchmarks.demo_models.schedule import refuse_foreign, scaled, training_parser

VISION_STEPS, VISION_DRAWINGS = 2400, 60_000
LANGUAGE_STEPS, LANGUAGE_DRAWINGS = 1500, 60_000


def train_mllm(output: Path, *, seed: int, scale: float) -> None:
    """Train both stages and write the checkpoint; ``scale`` shortens or lengthens everything."""
    torch.manual_seed(seed)
    tokenizer = training_tokenizer()
    model = new_mllm(tokenizer)
    share = min(1.0, scale)
    drawings = draw_many(seed, "mllm", round(VISION_DRAWINGS * share), difficulty=DIFFICULTY, random_share=0.5)
    train_vision(model, drawings, steps=scaled(VISION_STEPS, scale), seed=seed)
    drawings = draw_many(
        seed, "mllm-language", round(LANGUAGE_DRAWINGS * share), difficulty=DIFFICULTY, random_share=0.5
    )
    train_language(model, segments(tokenizer), drawings, steps=scaled(LANGUAGE_STEPS, scale), seed=seed)
    save_mllm(model.eval(), new_processor(tokenizer), output)


def main(arguments: list[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = training_parser(__doc__, seed=2000)
    parser.add_argument("--output", type=Path, required=True, help="folder for the checkpoint")
    args = parser.parse_args(arguments)
    refuse_foreign(parser, args.output)
    torch.set_num_threads(args.threads)
    train_mllm(args.output, seed=args.seed, scale=args.scale)


if __name__ == "__main__":
    main()
