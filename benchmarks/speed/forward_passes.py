"""What the number of images per forward pass costs a network on one core, and what `fgvr.forward_pass` makes of it.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.forward_passes --rounds 3
    OMP_NUM_THREADS=1 python -m benchmarks.speed.forward_passes --networks tf_efficientnet_lite0:160 --passes 1 4 8

Random pixels and weights, channels-last, evaluation mode. Each way runs in a process of its own, since the C library's
memory depends on what was freed before; the ways take turns. `ours` is `in_passes` over 64 images, a number is so many
images at once with the C library as it is. Measured are CPU milliseconds per image (medians of the rounds), those of
them that the system took, pages that it handed out per image, and the most resident memory.

A network is a name of timm or, with `clip/`, of open_clip (its image tower), and a side in pixels.
"""

from __future__ import annotations

import resource
import statistics
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks import harness
from fgvr.forward_pass import in_passes

IMAGES = 64
NETWORKS = (
    *("test_byobnet:64", "tf_efficientnet_lite0:160", "tf_efficientnet_lite0:224", "resnet18:224"),
    *("mobilenetv3_small_100:224", "vit_tiny_patch16_224:224", "vit_small_patch16_224:224", "clip/ViT-B-32:224"),
)


class Spent(NamedTuple):
    """CPU and system ms per image, pages per image, and MiB."""

    cpu: float
    system: float
    pages: float
    peak: float


def network_of(name: str) -> nn.Module:
    """A network with random weights."""
    if name.startswith("clip/"):
        import open_clip

        made: Any = open_clip.create_model(name.removeprefix("clip/")).visual
    else:
        import timm

        made = timm.create_model(name, num_classes=100)
    network: nn.Module = made.eval().to(memory_format=torch.channels_last)
    return network


def measure(network: str, way: str) -> Spent:
    """One round: images of at least 64, after as many that are not counted."""
    torch.set_num_threads(1)
    name, _, side = network.partition(":")
    model = network_of(name)
    images = torch.rand(IMAGES, 3, int(side), int(side))

    def at_once(some: Tensor) -> Tensor:
        outputs: Tensor = model(some.contiguous(memory_format=torch.channels_last))
        return outputs

    def all_images() -> None:
        if way == "ours":
            in_passes(at_once, images, "cpu")
        else:
            for some in torch.split(images, int(way)):
                at_once(some)

    with torch.inference_mode():
        all_images()
        before = resource.getrusage(resource.RUSAGE_SELF)
        all_images()
        after = resource.getrusage(resource.RUSAGE_SELF)
    system = after.ru_stime - before.ru_stime
    cpu = after.ru_utime - before.ru_utime + system
    pages = after.ru_minflt - before.ru_minflt
    return Spent(cpu / IMAGES * 1000, system / IMAGES * 1000, pages / IMAGES, harness.peak_mib())


def in_own_process(network: str, way: str) -> Spent:
    """What `measure` gives in a process of its own."""
    return Spent(*harness.again("--measure", network, way))


def main() -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--passes", nargs="+", type=int, default=(1, 4, 16, 64), help="images per pass")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", nargs=2, help=harness.HIDDEN)
    args = parser.parse_args()
    if args.measure:
        harness.answer(tuple(measure(*args.measure)))
        return
    ways = [*map(str, args.passes), "ours"]
    with harness.reporting(args) as report:
        columns = {"": "<28", "images per pass": ">16", "CPU ms": ">9.2f", "of system": ">10.2f"}
        table = report.table({**columns, "pages": ">8.0f", "MiB": ">7.0f", "ours is": ">9.2f"})
        for network in args.networks:
            turns = {way: partial(in_own_process, network, way) for way in ways}
            found = harness.take_turns(turns, args.rounds, log=False)
            own = [one.cpu for one in found["ours"]]
            for way, rounds in found.items():
                medians = [statistics.median(each) for each in zip(*rounds, strict=True)]
                faster = harness.paired_ratio([one.cpu for one in rounds], own)[0]
                table.row(network if way == ways[0] else "", way, *medians, faster)


if __name__ == "__main__":
    main()
