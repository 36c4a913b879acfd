"""CoOp training: this project's step beside the original one (all names × 77 tokens through autograd at every step).

    python -m benchmarks.speed.coop --precision bf16          # 500 names: time, memory and gradient, side by side
    python -m benchmarks.speed.coop --precision bf16 --names 1000 5000 20000 --rows ours      # growth with the names
    python3.12 -m benchmarks.speed.coop --device cuda      # from a checkout; needs torch and numpy only

Rows:
- `original`: the original loop's text side; image features are cached, as for `ours`, so only text cost is compared.
- `original-images`: the same with the images of a batch through the image tower at every step, as the original does.
- `ours`: `PromptLearner` and `backward_through_names`, what pipelines/near.py runs, with its default `text_chunk`.
- `ours-fp32`: the same in fp32 whatever `--precision` (fp32, or bf16 autocast with fp32 logits) the others have.

All have the sizes of ViT-B/16 and random weights, batches of 32, PRODEN on three candidates per image. Token counts of
names are drawn from those of 489 real answers about cars (9 on average, 23 at most). Every measurement is a process of
its own, rows take turns, medians of `--repeat`. Time: seconds on CUDA, CPU seconds of the process elsewhere, which
other work on the machine disturbs least (OMP_NUM_THREADS=1). Memory: peak beyond what is held before the first step
(`VmHWM` of Linux, or torch.cuda.max_memory_allocated). Gradient: ‖g − e‖ / ‖e‖ of the first step, e that of `ours-fp32`
or, without it, of the first row; `original-images` has other images. In fp32 `original` holds 35 MiB per name: 500 need
18 GB.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from benchmarks import harness
from benchmarks.speed.coop_reference import DIM, END, START, STOP, ImageEncoder, OriginalPrompts, TextEncoder
from fgvr.clip.prompt import PromptLearner, random_context
from fgvr.clip.prompt_layout import CONTEXT, PromptLayout
from fgvr.clip.text_tower import TextTower
from fgvr.losses.pll import proden_loss, proden_weights
from fgvr.training.prompt_scores import backward_through_names

ROWS = ("original", "original-images", "ours", "ours-fp32")
CONTEXT_TOKENS, LOGIT_SCALE, CHUNK = 16, 100.0, 256  # CHUNK: the default of near.text_chunk
# Names by number of CLIP tokens: the distinct answers of Qwen2.5-VL-72B to 588 photos of Stanford Cars.
CAR_NAMES = {3: 2, 4: 1, 6: 4, 7: 130, 8: 151, 9: 81, 10: 50, 11: 23, 12: 19, 13: 14, 14: 6, 15: 2, 16: 1, 17: 4, 23: 1}


@dataclass(frozen=True)
class Measured:
    """A row of the table; memory in MiB."""

    seconds: float
    memory: float


def prompts(names: int) -> PromptLayout:
    """Prompts of drawn token ids: start, context, name, full stop, end."""
    random = np.random.default_rng(0)
    sizes, counts = np.array(list(CAR_NAMES)), np.array(list(CAR_NAMES.values()))
    lengths = random.choice(sizes, names, p=counts / counts.sum())
    end = torch.from_numpy(1 + CONTEXT_TOKENS + lengths + 1)
    ids = torch.zeros(names, int(end.max()) + 1, dtype=torch.int64)
    for row, length in enumerate(lengths):
        name = torch.from_numpy(random.integers(1000, 40_000, length))
        body = [torch.tensor([START]), torch.full((CONTEXT_TOKENS,), CONTEXT), name, torch.tensor([STOP, END])]
        ids[row, : end[row] + 1] = torch.cat(body)
    return PromptLayout(ids, end, 1 + CONTEXT_TOKENS, ())


class Training:
    """A training of one row: `step` is one update of the context."""

    def __init__(self, row: str, names: int, batch: int, device: torch.device, precision: str) -> None:
        torch.manual_seed(0)
        self.device, self.bf16 = device, precision == "bf16" and row != "ours-fp32"
        encoder = TextEncoder().to(device).eval().requires_grad_(False)
        layout, tower = prompts(names), TextTower.of(encoder)
        start = random_context(tower, CONTEXT_TOKENS, seed=0)
        self.ours = row.startswith("ours")
        if self.ours:
            self.prompts: Any = PromptLearner(tower, layout, start).to(device)
        else:
            self.prompts = OriginalPrompts(encoder, layout.ids.to(device), layout.end.to(device), start.to(device))
        self.images = None
        if row == "original-images":
            self.images = ImageEncoder().to(device).eval().requires_grad_(False)
            self.pixels = torch.randn(batch, 3, 224, 224, device=device)
        self.features = F.normalize(torch.randn(batch, DIM, device=device), dim=-1)
        self.mask = torch.zeros(batch, names, dtype=torch.bool, device=device)
        self.mask.scatter_(1, torch.randint(names, (batch, 3), device=device), value=True)
        self.weights = self.mask / self.mask.sum(dim=1, keepdim=True)
        self.optimiser = torch.optim.SGD([self.prompts.context], lr=0.002, momentum=0.9, weight_decay=5e-4)

    def autocast(self) -> AbstractContextManager[Any]:
        """bf16 where the row computes in it."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()

    def step(self) -> None:
        """Train one step."""
        self.optimiser.zero_grad(set_to_none=True)
        if self.ours:
            with self.autocast():
                names = self.prompts.features(CHUNK)
            backward_through_names(self.prompts, names, [torch.arange(len(self.features))], self.loss)
        else:
            with self.autocast():
                if self.images is not None:
                    with torch.no_grad():
                        self.features = F.normalize(self.images(self.pixels).float(), dim=-1)
                names = self.prompts()
            torch.autograd.backward(self.loss(torch.arange(len(self.features)), names))
        self.optimiser.step()

    def loss(self, _part: Tensor, names: Tensor) -> Tensor:
        """PRODEN with the weights of the step before; updates them."""
        logits = LOGIT_SCALE * self.features @ names.T
        loss = proden_loss(logits, self.weights)
        self.weights = proden_weights(logits, self.mask)
        return loss


def measure(row: str, names: int, args: argparse.Namespace) -> Measured:
    """Time and memory of a row in this process; the first gradient goes to `args.gradient`."""
    device = torch.device(args.device)
    # If memory runs out, the system should kill this process first.
    Path("/proc/self/oom_score_adj").write_text("1000")
    Training(row, 8, args.batch, device, args.precision).step()  # libraries load and threads start
    training = Training(row, names, args.batch, device, args.precision)
    before = held(device)
    if device.type == "cuda":
        training.step()
    times = []
    for _ in range(args.steps):
        started = now(device)
        training.step()
        times.append(now(device) - started)
        if args.gradient:
            np.save(args.gradient, training.prompts.context.grad.float().cpu().numpy())
            args.gradient = None
    return Measured(statistics.median(times), (peak(device) - before) / 2**20)


def now(device: torch.device) -> float:
    """Seconds of the clock that counts on a device."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def held(device: torch.device) -> int:
    """Bytes held now; resets the count of the peak."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return int(torch.cuda.memory_allocated())
    harness.forget_peak()
    return harness.status_bytes("VmRSS")


def peak(device: torch.device) -> int:
    """Bytes held at most since `held` was called."""
    return int(torch.cuda.max_memory_allocated()) if device.type == "cuda" else harness.status_bytes("VmHWM")


def in_own_process(row: str, names: int, args: argparse.Namespace, gradient: Path) -> Measured:
    """What `measure` gives in a process of its own."""
    measured = harness.again(
        *("--measure", row, "--names", names, "--gradient", gradient, "--precision", args.precision),
        *("--device", args.device, "--batch", args.batch, "--steps", args.steps),
    )
    return Measured(**measured)


def compare(names: int, args: argparse.Namespace, folder: Path, report: harness.Report) -> None:
    """The table of one size of the label space."""
    ways = {row: partial(in_own_process, row, names, args, folder / f"{row}.npy") for row in args.rows}
    found = harness.take_turns(ways, args.repeat)
    medians = {
        row: Measured(statistics.median(m.seconds for m in all_), statistics.median(m.memory for m in all_))
        for row, all_ in found.items()
    }
    first = medians[args.rows[0]]
    exact = np.load(folder / f"{'ours-fp32' if 'ours-fp32' in args.rows else args.rows[0]}.npy")
    report.say(f"\n{names} names, batches of {args.batch}, {args.precision} on {args.device}; ratios to {args.rows[0]}")
    table = report.table(
        {
            "": "<16",
            "s/step": ">9.3f",
            "images/s": ">10.1f",
            "ratio": ">8.2f",
            "MiB": ">9.0f",
            "memory ratio": ">14.2f",
            "gradient": ">10",
            "spread of s": ">20",
        }
    )
    for row, measured in medians.items():
        gradient = np.load(folder / f"{row}.npy")
        difference = f"{np.linalg.norm(gradient - exact) / np.linalg.norm(exact):.1e}"
        spread = f"{min(m.seconds for m in found[row]):.3g} – {max(m.seconds for m in found[row]):.3g}"
        table.row(
            row,
            measured.seconds,
            args.batch / measured.seconds,
            first.seconds / measured.seconds,
            measured.memory,
            first.memory / measured.memory,
            difference if row != "original-images" else "–",
            spread,
        )


def main() -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__)
    parser.add_argument("--names", type=int, nargs="+", default=[500], help="sizes of the label space")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="the first is compared with")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", choices=["fp32", "bf16"], help="default: bf16 on cuda, else fp32")
    parser.add_argument("--batch", type=int, default=32, help="images per step")
    parser.add_argument("--steps", type=int, default=2, help="timed steps per process; their median counts")
    parser.add_argument("--repeat", type=int, default=3, help="processes per row")
    parser.add_argument("--measure", choices=ROWS, help=harness.HIDDEN)
    parser.add_argument("--gradient", help=harness.HIDDEN)
    args = parser.parse_args()
    args.precision = args.precision or ("bf16" if args.device == "cuda" else "fp32")
    if args.measure:
        harness.answer(measure(args.measure, args.names[0], args))
        return
    with harness.reporting(args) as report, tempfile.TemporaryDirectory() as folder:
        for names in args.names:
            compare(names, args, Path(folder), report)


if __name__ == "__main__":
    main()
