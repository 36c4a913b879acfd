"""An adapter's folder: LoRA weights as safetensors, PEFT's config, and what it was trained on and measured at."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from fgvr.digests import folder_digest
from fgvr.errors import UserError

WEIGHTS: Final = "adapter_model.safetensors"
CONFIG: Final = "adapter_config.json"
RECORD: Final = "adaptation.json"
PICKLES: Final = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})


class AdapterError(UserError, ValueError):
    """An adapter that cannot be used, or not with this model."""


@dataclass(frozen=True)
class Verdict:
    """Accuracy on trusted photos that the training never saw, greedy answers, before and after.

    Attributes:
        photos: how many.
        before: share of right names of the model itself.
        after: likewise with the adapter.
        low: lower end of the 95% interval of the paired difference after − before (bootstrap over photos).
        high: its upper end.
    """

    photos: int
    before: float
    after: float
    low: float
    high: float

    @property
    def taken(self) -> bool:
        """Whether the adapter is better beyond chance."""
        return self.low > 0

    def sentence(self) -> str:
        """For the console and the report."""
        end = "it is taken" if self.taken else "it is not taken, since it is not better beyond chance"
        return (
            f"adapter: {self.before:.1%} → {self.after:.1%} right on {self.photos:,} photos that it never saw "
            f"(difference {100 * self.low:+.1f} to {100 * self.high:+.1f} points, 95%): {end}"
        )


def write_record(folder: Path, base: str | Path, verdict: Verdict) -> None:
    """Write beside the weights which model they belong to, by content, and what they are worth."""
    record = {"base": folder_digest(base), **asdict(verdict), "taken": verdict.taken}
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def check_adapter(folder: str | Path, base: str | Path | None = None, *, field: str = "mllm.adapter") -> int:
    """Check an adapter without loading it; returns its rank.

    Args:
        folder: with the adapter.
        base: folder of the model that it is to change; None: not known here.
        field: config field that names the adapter, for messages.

    Raises:
        AdapterError: files are missing, weights are pickled, or it belongs to another model.
    """
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise AdapterError(f"{field}: there is no folder {place}")
    pickled = sorted(file.name for file in place.iterdir() if file.suffix in PICKLES)
    if pickled:
        raise AdapterError(
            f"{field}: {place} has pickled files ({', '.join(pickled)}), which could run any program when they are "
            f"read; keep only {CONFIG} and {WEIGHTS}"
        )
    for name in (CONFIG, WEIGHTS):
        if not (place / name).is_file():
            raise AdapterError(f"{field}: {place} has no {name}; it must be a LoRA adapter as PEFT saves it")
    try:
        rank = json.loads((place / CONFIG).read_text(encoding="utf-8"))["r"]
        record = json.loads((place / RECORD).read_text(encoding="utf-8")) if (place / RECORD).is_file() else {}
        trained_on = record.get("base")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AdapterError(f"{field}: {place}: {CONFIG} or {RECORD} cannot be read: {error!r}") from error
    if not isinstance(rank, int) or rank < 1:
        raise AdapterError(f"{field}: {place / CONFIG}: r = {rank!r}; expected the rank of a LoRA adapter")
    if base is not None and trained_on is not None and trained_on != folder_digest(base):
        raise AdapterError(
            f"{field}: {place} was trained on another model than {base}; train one for this model, or name the other"
        )
    return rank
