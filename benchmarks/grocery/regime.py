"""The regime of the Grocery Store benchmark: how often its MLLM is right, what its CLIP sees and what it can name.

    python -m benchmarks.grocery.regime --models ~/.cache/fgvr/grocery

Prints shares on the evaluation half of `test`; the probe learns from the true classes of the discovery half. Only for
the report: the models and all settings were chosen before this was run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from benchmarks import harness
from benchmarks.grocery.halves import discovery_rows
from benchmarks.grocery.models import DEFAULT_OUT, named_right
from benchmarks.grocery.photos import Photos, data_folder, load_photos, normalised, plain


@dataclass(frozen=True)
class Regime:
    """Shares of the evaluation half, 0 to 1."""

    mllm: float
    """The MLLM's greedy answer is the true name."""
    zero_shot: float
    """CLIP picks the true name among all true names."""
    probe: float
    """Logistic regression on CLIP's features, learned on the discovery half with true classes."""
    neighbours: float
    """Share of the two nearest other photos that have a discovery photo's class."""


@torch.inference_mode()
def measure(models: Path, photos: Photos, discovery: np.ndarray) -> Regime:
    """Measure both models.

    Args:
        models: folder of `mllm/` and `clip/`.
        photos: the `test` photos.
        discovery: bool [N], which of them are of the discovery half.
    """
    import open_clip

    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{models / 'clip'}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{models / 'clip'}")
    model.eval()
    images = torch.from_numpy(photos.images)
    vectors = torch.cat(
        [model.encode_image(normalised(plain(part)), normalize=True) for part in torch.split(images, 256)]
    )
    names = model.encode_text(tokenizer([f"a photo of a {name}." for name in photos.names]), normalize=True)
    classes, seen, new = photos.classes, vectors[discovery], vectors[~discovery]
    probe = LogisticRegression(C=10, max_iter=1000).fit(seen.numpy(), classes[discovery])
    nearest = (seen @ seen.T).fill_diagonal_(-1).topk(2).indices.numpy()
    return Regime(
        mllm=named_right(models / "mllm", photos.take(np.flatnonzero(~discovery))),
        zero_shot=float(((new @ names.T).argmax(dim=1).numpy() == classes[~discovery]).mean()),
        probe=float(probe.score(new.numpy(), classes[~discovery])),
        neighbours=float((classes[discovery][nearest] == classes[discovery][:, None]).mean()),
    )


def main(arguments: list[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__)
    parser.add_argument("--models", type=Path, default=DEFAULT_OUT, help="folder of both (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=data_folder(), help="the data set (default: %(default)s)")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    photos, discovery = load_photos(args.data, ("test",)), discovery_rows(args.data)
    with harness.reporting(args) as report:
        table = report.table({"": "<12", "share": ".3f"})
        for name, share in vars(measure(args.models.expanduser(), photos, discovery)).items():
            table.row(name, share)


if __name__ == "__main__":
    main()
