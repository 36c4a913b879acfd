"""Trains the network that the demo's students start from: ten to fifteen minutes on one core.

    python -m benchmarks.demo_models.backbone --output fgvr/demo/models/backbone

It plays the part of the ImageNet weights that every user has: it knows what the parts of a drawn bird look like, and no
species. It learns the 22 attributes of birds whose attributes are drawn at random (no bird of the field guides is among
them), at the difficulties at which the demo's other models were trained. What is saved is a folder that timm reads,
without the heads.
"""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.demo_models.drawings import DIFFICULTY, AttributeHeads, Drawings, draw_many, flip_some
from benchmarks.demo_models.schedule import Learner, batches, half_precision, refuse_foreign, scaled, training_parser

BACKBONE: Final = "test_byobnet"
MEAN, STD, SIDE = 0.5, 0.25, 64
DRAWINGS, STEPS, BATCH = 60_000, 3_000, 128
MEASURED: Final = 4_000
"""Drawings on which the attributes are counted at the end."""


def inputs_of(images: Tensor) -> Tensor:
    """The network's input for drawings: uint8 [N, 64, 64, 3] to float [N, 3, 64, 64]."""
    return ((images.float() / 255 - MEAN) / STD).permute(0, 3, 1, 2)


def cropped(images: Tensor, rng: np.random.Generator) -> Tensor:
    """One random square of each batch, at least half of the area, resized to the input: uint8 [N, 64, 64, 3]."""
    side = int(rng.integers(round(SIDE * 0.5**0.5), SIDE + 1))
    top, left = (int(rng.integers(SIDE - side + 1)) for _ in range(2))
    part = images[:, top : top + side, left : left + side].permute(0, 3, 1, 2).float()
    resized = nn.functional.interpolate(part, (SIDE, SIDE), mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def train(network: nn.Module, heads: AttributeHeads, drawings: Drawings, *, steps: int, seed: int) -> None:
    """Train the network in place on the attributes of drawings."""
    rng = np.random.default_rng([seed, 1])
    learner = Learner("backbone", (network, heads), 3e-3, steps=steps, warm_up=max(1, steps // 20))
    images, looks = torch.from_numpy(drawings.images), torch.from_numpy(drawings.looks)
    network.train()
    for rows in batches(len(drawings), min(BATCH, len(drawings)), steps, rng):
        pixels = inputs_of(cropped(flip_some(images[rows], rng), rng))
        learner.step(heads.loss(network(pixels), looks[rows]))
    network.eval()


@torch.inference_mode()
def features_of(network: nn.Module, drawings: Drawings) -> Tensor:
    """The network's features of drawings, float [N, D]."""
    images = torch.from_numpy(drawings.images)
    parts = range(0, len(images), BATCH)
    return torch.cat([network(inputs_of(images[first : first + BATCH])) for first in parts])


@torch.inference_mode()
def attributes_right(network: nn.Module, heads: AttributeHeads, drawings: Drawings) -> float:
    """Share of right attributes of drawings, over all of them."""
    return float(heads.right(features_of(network, drawings), torch.from_numpy(drawings.looks)).mean())


def load_backbone(folder: Path) -> Any:
    """The network of a folder that `save` wrote, in evaluation mode: images to features [N, D]."""
    network: Any = timm.create_model(BACKBONE, num_classes=0)
    network.load_state_dict(load_file(folder / "model.safetensors"))
    return network.eval()


def save(network: Any, folder: Path) -> None:
    """Write the folder as timm does; weights are stored as float16."""
    folder.mkdir(parents=True, exist_ok=True)
    data = {"input_size": [3, SIDE, SIDE], "mean": [MEAN] * 3, "std": [STD] * 3, "interpolation": "bilinear"}
    facts = {
        "architecture": BACKBONE,
        "num_classes": 0,
        "num_features": network.num_features,
        "pretrained_cfg": {**data, "crop_pct": 1.0, "num_classes": 0},
    }
    (folder / "config.json").write_text(json.dumps(facts, indent=2) + "\n")
    save_file(half_precision(network), folder / "model.safetensors", metadata={"format": "pt"})


def main(arguments: list[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = training_parser(__doc__, seed=4000)
    parser.add_argument("--output", type=Path, required=True, help="folder for timm's files")
    args = parser.parse_args(arguments)
    refuse_foreign(parser, args.output)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    count = max(BATCH, round(DRAWINGS * min(1.0, args.scale)))
    drawings = draw_many(args.seed, "backbone", count, difficulty=DIFFICULTY, random_share=1.0)
    network: Any = timm.create_model(BACKBONE, num_classes=0)
    heads = AttributeHeads(network.num_features)
    train(network, heads, drawings, steps=scaled(STEPS, args.scale), seed=args.seed)
    fresh = draw_many(args.seed, "backbone-measured", MEASURED, difficulty=DIFFICULTY, random_share=1.0)
    print(f"attributes of {MEASURED:,} other birds: {attributes_right(network, heads, fresh):.3f} right")
    save(network, args.output)


if __name__ == "__main__":
    main()
