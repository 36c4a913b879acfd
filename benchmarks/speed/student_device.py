"""Images per second of students in training on a device; needs only torch and timm, no photos.

    python3.12 -m benchmarks.speed.student_device --device cuda            # a GPU: batches of 128, bf16
    python -m benchmarks.speed.student_device --device cpu --size 64 --batch 8 --steps 3   # does it run

Each step is that of `fgvr.training.student`: uint8 pixels from pinned memory, normalised on the device, C + Q outputs,
cross entropy and aspect loss, SGD. Random pixels: decoding is measured by `student_loading.py`. The ways take turns:

- `plain`: memory in PyTorch's own order (NCHW); `channels last`: as fgvr trains; `no aspects`: the same, Q = 0;
- `compiled` (with `--compile`): channels last under torch.compile, `makd.compile`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import timm
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import harness

ALPHA = 4.0


@dataclass(frozen=True)
class Data:
    """A batch: uint8 [N, S, S, 3] on the host, classes [N] and p(yes) [N, Q] on the device."""

    pixels: Tensor
    classes: Tensor
    p_yes: Tensor


def training_step(args: argparse.Namespace, backbone: str, data: Data, way: str) -> Callable[[], None]:
    """A function that trains one step."""
    questions = 0 if way == "no aspects" else args.questions
    model = timm.create_model(backbone, num_classes=args.classes + questions).to(args.device).train()
    if way != "plain":
        model = model.to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    network = torch.compile(model) if way == "compiled" else model

    def step() -> None:
        pixels = data.pixels.to(args.device, non_blocking=True).permute(0, 3, 1, 2).float() / 255 - 0.5
        if way == "plain":
            pixels = pixels.contiguous()
        with torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16"):
            outputs = network(pixels)
        outputs = outputs.float()
        loss = functional.cross_entropy(outputs[:, : args.classes], data.classes)
        if questions:
            aspects = functional.binary_cross_entropy_with_logits(outputs[:, args.classes :], data.p_yes)
            loss = loss + ALPHA * aspects
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return step


def seconds(step: Callable[[], None], steps: int, device: str) -> float:
    """Seconds of one step, with the device idle before and after."""
    synchronise(device)
    started = time.perf_counter()
    for _ in range(steps):
        step()
    synchronise(device)
    return (time.perf_counter() - started) / steps


def synchronise(device: str) -> None:
    """Wait until a device has finished all its work."""
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--backbones", nargs="+", default=["resnet18", "efficientnet_b0"])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--classes", type=int, default=200)
    parser.add_argument("--questions", type=int, default=50)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    shape = (args.batch, args.size, args.size, 3)
    data = Data(
        torch.randint(0, 256, shape, dtype=torch.uint8, pin_memory=args.device == "cuda"),
        torch.randint(0, args.classes, (args.batch,), device=args.device),
        torch.rand(args.batch, args.questions, device=args.device),
    )
    with harness.reporting(args) as report:
        ways = ["plain", "channels last", "no aspects", *(["compiled"] if args.compile else [])]
        name = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
        report.say(
            f"{name}, torch {torch.__version__}, {args.size} px, batches of {args.batch}, {args.precision}; images/s"
        )
        table = report.table({"": "<18", **dict.fromkeys(ways, ">15,.0f")})
        for backbone in args.backbones:
            steps = {way: training_step(args, backbone, data, way) for way in ways}
            for step in steps.values():
                seconds(step, max(1, args.steps // 10), args.device)  # kernels are chosen, or compiled
            turns = {way: partial(seconds, step, args.steps, args.device) for way, step in steps.items()}
            found = {
                way: [args.batch / one for one in of]
                for way, of in harness.take_turns(turns, args.rounds, log=False).items()
            }
            table.row(backbone, *(statistics.median(found[way]) for way in ways))


if __name__ == "__main__":
    main()
