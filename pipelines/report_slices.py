"""The report's slices: the columns of `evaluate.slice_by`, read for the photos whose true class is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fgvr.config import Config, ConfigError
from fgvr.config.slices import BUILT_IN, CLASS_NAME, FOLDER
from fgvr.sources.metadata import check_columns
from pipelines.run_tables import Run

if TYPE_CHECKING:
    from typing import Any

    import pyarrow as pa

    from fgvr.arrays import Ids
    from fgvr.evaluation.slice_cuts import Cut
    from fgvr.evaluation.slices import Slices
    from fgvr.names.merging import NameEncoder

TRACKED = 20
"""Slices whose metrics go to MLflow, the worst first: 100,000 metrics would help nobody, and slow its server down."""
LONGEST_TITLE = 100
UNKNOWN = "no true class of these photos is known, so no method is right or wrong anywhere"


def check_slices(config: Config) -> None:
    """Check before anything starts that the columns are there, and that a pair names two.

    Raises:
        ConfigError, MetadataError: what is wrong, and where to name columns.
    """
    evaluate = config.evaluate
    for pair in evaluate.slice_by:
        if not isinstance(pair, str) and pair[0] == pair[1]:
            raise ConfigError(f"evaluate.slice_by: the pair {list(pair)} names one column twice; leave {pair[0]} alone")
    own = set(_kept(config))
    wanted = [name for name in _columns(config) if name in own or name not in BUILT_IN]
    check_columns(config.ingest.source, wanted, f"evaluate.slice_by (beside {' and '.join(BUILT_IN)})")
    group_by = evaluate.slices.group_by
    if evaluate.slice_by and group_by is not None and (group_by in own or group_by not in BUILT_IN):
        check_columns(config.ingest.source, [group_by], "evaluate.slices.group_by")


def slices_of(
    run: Run,
    ids: Ids,
    names: Mapping[str, Sequence[str]],
    true: Sequence[str | None],
    load_encoder: Callable[[], NameEncoder] | None = None,
) -> Slices | None:
    """The methods on every slice of the compared photos; None where `evaluate.slice_by` is empty.

    Args:
        run: for its config and samples.
        ids: compared photos, int64 [n], ascending.
        names: method → a name per photo, "" where it has none.
        true: the true class per photo; None or "": unknown, so that the photo is in no slice.
        load_encoder: loads Sentence-BERT for sACC; called only if there is truth. None: slices have top-1 alone.
    """
    from fgvr.evaluation.slice_cuts import crossed, gathered, group_codes
    from fgvr.evaluation.slices import Slices, measure_slices, name_scores
    from fgvr.metrics.classification import top1_hits

    evaluate = run.config.evaluate
    if not evaluate.slice_by:
        return None
    known = np.flatnonzero(np.array([bool(name) for name in true], dtype=bool))
    if not len(known):
        return Slices(remarks=(UNKNOWN,))
    texts = _texts(run, ids[known])
    truth = [name for name in true if name]
    said = {method: [given[place] for place in known.tolist()] for method, given in names.items()}
    hits = {method: top1_hits(given, truth) for method, given in said.items()}
    encoder = None if load_encoder is None else load_encoder()
    near = None if encoder is None else {method: name_scores(given, truth, encoder) for method, given in said.items()}
    whole = {name: _cut(run.config, name, texts[name]) for name in _columns(run.config)}
    group_by = evaluate.slices.group_by
    if group_by is None:
        whole = {name: _of_classes(cut, truth) for name, cut in whole.items()}
    most = evaluate.slices.max_values
    cuts = [
        gathered(whole[by], most) if isinstance(by, str) else crossed(whole[by[0]], whole[by[1]], most)
        for by in dict.fromkeys(evaluate.slice_by)
    ]
    groups = None if group_by is None else group_codes(texts[group_by])
    least = evaluate.slices.min_images
    return measure_slices(hits, cuts, min_images=least, groups=groups, group_by=group_by or "", names=near)


def slice_numbers(slices: Slices | None, sacc: str) -> dict[str, float]:
    """Metrics of slices for MLflow: how many are worse than elsewhere, and the `TRACKED` with the largest losses.

    Args:
        slices: as measured; None: nothing.
        sacc: what sACC is called, which names its model.
    """
    from cluster.tracking_names import good_name

    if slices is None or not slices.tests:
        return {}
    found = {"slices.tests": float(slices.tests), "slices.worse": float(len(slices.flagged))}
    for row in slices.tested[:TRACKED]:
        place = f"{row.method}.slices.{good_name(row.title, LONGEST_TITLE)}"
        values = {"top1": row.top1, "gap": row.gap, sacc: row.sacc, "cacc": row.cacc}
        found |= {f"{place}.{metric}": value for metric, value in values.items() if value is not None}
    return found


def _columns(config: Config) -> list[str]:
    """The columns of all slices, each once."""
    flat = [[by] if isinstance(by, str) else [*by] for by in config.evaluate.slice_by]
    return list(dict.fromkeys(name for names in flat for name in names))


def _kept(config: Config) -> Sequence[str]:
    """Columns that the source keeps as metadata: a column called folder or class_name goes before the photo's own."""
    kept: Sequence[str] = getattr(config.ingest.source, "kept_columns", ())
    return kept


def _cut(config: Config, name: str, texts: pa.Array) -> Cut:
    from fgvr.evaluation.slice_cuts import cut_by

    return cut_by(name, texts, quantities=name in _kept(config))


def _of_classes(cut: Cut, truth: Sequence[str]) -> Cut:
    """The cut, with a remark where it follows from the true class: its slices then differ as single classes do."""
    pairs = set(zip(truth, cut.codes.tolist(), strict=True))
    classes, slices = len({name for name, _ in pairs}), len({code for _, code in pairs})
    if not 1 < slices < classes == len(pairs):
        return cut
    remark = (
        f"{cut.title} follows from the true class, so a difficult class makes its slice worse, whatever the slice is: "
        f"believe a slice of several classes only with evaluate.slices.group_by = {CLASS_NAME}, which counts classes"
    )
    return replace(cut, remarks=(*cut.remarks, remark))


def _texts(run: Run, ids: Ids) -> dict[str, Any]:
    """The columns of slices and groups, as text: one value per photo."""
    from fgvr.evaluation.slice_cuts import folders
    from fgvr.metadata.stored import metadata

    group_by, own = run.config.evaluate.slices.group_by, set(_kept(run.config))
    wanted = dict.fromkeys([*_columns(run.config), *([group_by] if group_by is not None else [])])
    stored, samples = [name for name in wanted if name in own], run.table("samples")
    texts: dict[str, Any] = {}
    if stored:
        rows = metadata(samples, ids, stored)
        texts |= {name: rows[name] for name in stored}
    if CLASS_NAME in wanted and CLASS_NAME not in own:
        texts[CLASS_NAME] = samples.take(ids, ["class_name"])["class_name"]
    if FOLDER in wanted and FOLDER not in own:
        texts[FOLDER] = folders(samples.take(ids, ["uri"])["uri"].to_pylist())
    return texts
