"""Labels from several sources together (`label.combine`): part of the stage label."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fgvr.config import ConfigError
from pipelines.beliefs import MOST_BELIEVED, TooManyImages

if TYPE_CHECKING:
    from fgvr.beliefs.reliability import Reliabilities
    from fgvr.beliefs.together import Together
    from fgvr.config import Config
    from fgvr.names.answer_items import Form
    from fgvr.names.label_space import NamedAnswers
    from pipelines.run_tables import Run

log = logging.getLogger(__name__)


def combination(config: Config) -> dict[str, Any]:
    """What decides how labels are combined; empty where the first source alone gives them."""
    how = config.label.combine
    if how == "first":
        return {}
    from fgvr.beliefs import reliability, together

    # The metrics of the table have the names.
    return {"combine": [how, reliability.RULES, together.RULES, *(source.name for source in config.label.sources)]}


def check_count(config: Config) -> None:
    """Raise ConfigError where more images would be labelled than can be combined, before any is paid for."""
    most = config.label.images.max_images
    if config.label.combine != "first" and most is not None and most > MOST_BELIEVED:
        raise ConfigError(
            f"label.images.max_images = {most:,}: label.combine = {config.label.combine} takes at most "
            f"{MOST_BELIEVED:,} images at once; lower it, or set label.combine to first"
        )


def said_together(run: Run, forms: Mapping[str, Form], named: NamedAnswers, checked: Mapping[int, str]) -> Together:
    """What all sources say of the discovery images; their answers are read once more for it.

    Args:
        run: the run, for the tables of answers.
        forms: these tables, in the order of the sources, and the form of their answers.
        named: what the items of all answers mean.
        checked: right name by image id, where a person has looked.

    Raises:
        TooManyImages: see `MOST_BELIEVED`.
    """
    import numpy as np

    from fgvr.beliefs.together import together

    ids = np.sort(run.table(next(iter(forms))).read(["image_id"])["image_id"].to_numpy())
    if len(ids) > MOST_BELIEVED:
        raise TooManyImages(
            f"label.combine = {run.config.label.combine}: {len(ids):,} labelled images, of which it takes at most "
            f"{MOST_BELIEVED:,} at once; lower label.images.max_images, or set label.combine to first"
        )
    return together([(run.table(name).batches(), form) for name, form in forms.items()], named, ids, checked)


def reliability_of(config: Config, said: Reliabilities) -> dict[str, float]:
    """Metrics of the labels table, logged too: which share of each source's labels is right by what all say together,
    and how often it agrees with the first. A source that says nothing has none.
    """
    names = [source.name for source in config.label.sources]
    right = {name: float(share) for name, share in zip(names, said.right, strict=True) if not math.isnan(share)}
    agrees = {name: float(share) for name, share in zip(names, said.agreement[0], strict=True) if name != names[0]}
    log.info(
        "labels: by what the sources say together, right are %s (label.combine)",
        ", ".join(f"{100 * share:.0f}% of {name}'s" for name, share in right.items()) or "none",
    )
    metrics = {f"right_{name}": share for name, share in right.items()}
    return metrics | {f"agrees_{name}": share for name, share in agrees.items() if not math.isnan(share)}
