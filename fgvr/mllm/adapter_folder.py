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

    The test is McNemar's, exact and one-sided: of the photos whose answer became right or wrong, half would have become
    right by chance.

    Attributes:
        photos: how many.
        before: share of right names of the model itself.
        after: likewise with the adapter.
        low: lower end of the 95% interval of the paired difference after − before (bootstrap over photos).
        high: its upper end.
        gained: photos that were wrong before and are right after.
        lost: photos that were right before and are wrong after.
        confidence: of the test, from which the adapter may be taken.
        min_gain: least after − before for which it is taken.
    """

    photos: int
    before: float
    after: float
    low: float
    high: float
    gained: int
    lost: int
    confidence: float = 0.95
    min_gain: float = 0.0

    @property
    def p(self) -> float:
        """Probability of so many gained photos or more among the changed ones, if chance decided: P(X ≥ gained)."""
        from scipy.stats import binom

        return float(binom.sf(self.gained - 1, self.gained + self.lost, 0.5))

    @property
    def taken(self) -> bool:
        """Whether the adapter is better beyond chance, and by enough."""
        # Shares are quotients of counts: a gain of exactly `min_gain` must not be lost to rounding.
        enough = (self.gained - self.lost) / max(1, self.photos) >= self.min_gain - 1e-12
        return self.p <= 1 - self.confidence and self.gained > self.lost and enough

    def sentence(self) -> str:
        """For the console and the report."""
        if self.taken:
            end = "it is taken"
        elif self.p <= 1 - self.confidence:
            end = f"it is not taken, since it gains less than {100 * self.min_gain:g} points"
        else:
            end = f"it is not taken, since it is not better beyond chance ({self.confidence:.0%} one-sided)"
        return (
            f"adapter: {self.before:.1%} → {self.after:.1%} right on {self.photos:,} photos that it never saw "
            f"(wrong → right {self.gained:,}, right → wrong {self.lost:,}, p = {self.p:.3g}; difference "
            f"{100 * self.low:+.1f} to {100 * self.high:+.1f} points, 95%): {end}"
        )


def write_record(folder: Path, base: str | Path, verdict: Verdict) -> None:
    """Write beside the weights which model they belong to, by content, and what they are worth."""
    record = {"base": folder_digest(base), **asdict(verdict), "p": verdict.p, "taken": verdict.taken}
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def check_adapter(
    folder: str | Path, base: str | Path | None = None, *, field: str = "mllm.adapter", anyway: bool = False
) -> int:
    """Check an adapter without loading it; returns its rank.

    Args:
        folder: with the adapter.
        base: folder of the model that it is to change; None: not known here.
        field: config field that names the adapter, for messages.
        anyway: whether one is allowed whose record says that it was not better than the model itself.

    Raises:
        AdapterError: files are missing, weights are pickled, it belongs to another model, or it was not better.
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
        trained_on, taken = record.get("base"), record.get("taken")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AdapterError(f"{field}: {place}: {CONFIG} or {RECORD} cannot be read: {error!r}") from error
    if not isinstance(rank, int) or rank < 1:
        raise AdapterError(f"{field}: {place / CONFIG}: r = {rank!r}; expected the rank of a LoRA adapter")
    if base is not None and trained_on is not None and trained_on != folder_digest(base):
        raise AdapterError(
            f"{field}: {place} was trained on another model than {base}; train one for this model, or name the other"
        )
    if taken is False and not anyway:
        raise AdapterError(
            f"{field}: {place} was not better than the model itself beyond chance ({RECORD} has the numbers): leave it "
            f"out, or set {field}_anyway to true to have it answer all the same"
        )
    return rank
