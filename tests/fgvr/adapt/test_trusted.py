"""Which photos are trusted and why, how they are divided, and by which test an adapter is taken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from fgvr.adapt.training import judged, last_checkpoint
from fgvr.adapt.trusted import Split, joined_groups, reasons, split
from fgvr.arrays import NONE
from fgvr.mllm.adapter_folder import AdapterError, Verdict, check_adapter, write_record

SHARE = {"judge_share": 0.3, "max_learned": 1000, "max_judged": 1000}


def flags(*places: int, count: int = 7) -> np.ndarray:
    found = np.zeros(count, bool)
    found[list(places)] = True
    return found


def divided(count: int, *, why: np.ndarray | None = None, groups: np.ndarray | None = None, **more: float) -> Split:
    ids = np.arange(count, dtype=np.int64) * 3
    return split(
        ids,
        (ids % 5).astype(np.int32),
        np.full(count, "agreed") if why is None else why,
        np.arange(count, dtype=np.int64) if groups is None else groups,
        **{**SHARE, "seed": 0, **more},  # type: ignore[arg-type]
    )


def test_the_first_rule_that_holds_says_why() -> None:
    own = np.array([0, NONE, 1, 1, 1, 1, NONE], np.int32)
    found = reasons(
        own,
        checked=flags(0, 6),  # the last has no name, whoever looked
        differ=flags(0, 2),
        judged=flags(0, 2, 4, 5),
        doubted=flags(0, 2, 4),
    )
    assert found.tolist() == ["checked", "unlabelled", "disagreed", "unjudged", "suspicious", "agreed", "unlabelled"]
    assert reasons(own[:0], **{key: flags(count=0) for key in ("checked", "differ", "judged", "doubted")}).size == 0


def test_any_common_key_joins_photos_and_none_joins_nobody() -> None:
    groups = joined_groups(np.array([0, 0, 1, -1, -1, -1]), np.array([5, 6, 6, -1, 7, -1]))
    assert groups[0] == groups[1] == groups[2]  # 1 and 2 by the second key
    assert len(set(groups[[0, 3, 4, 5]].tolist())) == 4


def test_no_group_is_on_both_sides_and_the_share_is_kept() -> None:
    groups = np.repeat(np.arange(40), 5)
    found = divided(200, groups=groups)
    assert np.intersect1d(found.learned, found.judged).size == 0
    assert len(found.learned) + len(found.judged) == 200
    assert len(found.judged) == 60  # 12 groups of 5 photos
    assert set((found.judged // 3 // 5).tolist()).isdisjoint((found.learned // 3 // 5).tolist())


def test_the_same_seed_divides_alike_and_another_one_does_not() -> None:
    first, again, other = (divided(200, seed=seed) for seed in (1, 1, 2))
    assert first.judged.tolist() == again.judged.tolist() != other.judged.tolist()


def test_checked_photos_are_divided_by_themselves_and_come_first_where_there_are_many() -> None:
    why = np.where(np.arange(200) < 40, "checked", "agreed")
    found = divided(200, why=why)
    assert ((found.judged < 120).sum(), len(found.judged)) == (12, 60)  # 30% of 40 and of 200
    few = divided(200, why=why, max_learned=30, max_judged=20)
    assert ((few.learned < 120).sum(), len(few.learned)) == (28, 30)
    assert ((few.judged < 120).sum(), len(few.judged)) == (12, 20)
    assert set(few.judged.tolist()) <= set(found.judged.tolist())


def test_a_group_larger_than_the_share_does_not_judge() -> None:
    groups = np.where(np.arange(200) < 150, 0, np.arange(200))
    found = divided(200, groups=groups)
    assert (found.judged >= 450).all()
    assert len(found.judged) == 50  # the others fit


@pytest.mark.parametrize("count", [0, 1, 60])
def test_too_few_photos_are_refused_in_a_sentence(count: int) -> None:
    with pytest.raises(AdapterError, match=r"to judge.*at least 8 and 20 are needed: check more labels"):
        divided(count)


def test_one_group_alone_is_refused() -> None:
    with pytest.raises(AdapterError, match=r"200 trusted photos to learn from and 0 to judge, in 1 groups"):
        divided(200, groups=np.zeros(200, np.int64))


def test_one_name_alone_is_refused() -> None:
    ids = np.arange(200, dtype=np.int64)
    with pytest.raises(AdapterError, match="have one name"):
        split(ids, np.zeros(200, np.int32), np.full(200, "checked"), ids, **SHARE, seed=0)


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [(0, 0, 1), (4, 0, 1 / 16), (5, 0, 1 / 32), (9, 1, 11 / 1024), (5, 5, 638 / 1024), (0, 5, 1)],
)
def test_the_test_is_mcnemars_exact_and_one_sided(gained: int, lost: int, p: float) -> None:
    """11 = C(10, 9) + C(10, 10); 638 = the sum of C(10, k) for k from 5 to 10."""
    verdict = Verdict(200, 0.5, 0.5 + (gained - lost) / 200, 0, 0, gained, lost)
    assert verdict.p == pytest.approx(p)
    assert verdict.taken == (p <= 0.05)
    if gained + lost:
        assert verdict.p == pytest.approx(binomtest(gained, gained + lost, alternative="greater").pvalue)


def test_confidence_and_least_gain_decide() -> None:
    before, after = np.zeros(200), np.arange(200) < 8
    assert judged(before, after.astype(float), min_gain=0.04).taken  # exactly 4 points
    assert judged(before, after.astype(float), confidence=0.99).taken  # p = 1/256
    assert not judged(before, after.astype(float), confidence=0.999).taken
    small = judged(before, after.astype(float), min_gain=0.05)
    assert not small.taken
    assert "gains less than 5 points" in small.sentence()
    assert "wrong → right 8, right → wrong 0, p = 0.00391" in small.sentence()


def written(folder: Path, verdict: Verdict) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"r": 4}')
    (folder / "adapter_model.safetensors").write_bytes(b"")
    write_record(folder, folder, verdict)
    return folder


def test_an_adapter_that_was_not_better_needs_an_explicit_word(tmp_path: Path) -> None:
    worse = written(tmp_path / "worse", Verdict(50, 0.5, 0.4, -0.2, 0, 0, 5))
    with pytest.raises(AdapterError, match=r"label\.sources\.0\.mllm\.adapter: .*not better.*adapter_anyway to true"):
        check_adapter(worse, field="label.sources.0.mllm.adapter")
    assert check_adapter(worse, anyway=True) == 4
    assert check_adapter(written(tmp_path / "better", Verdict(50, 0.5, 0.7, 0.1, 0.3, 10, 0))) == 4
    (worse / "adaptation.json").unlink()  # of a person's own training: nothing was measured
    assert check_adapter(worse) == 4
    assert json.loads((tmp_path / "better" / "adaptation.json").read_text())["p"] == pytest.approx(2**-10)


def test_a_checkpoint_that_was_not_written_to_its_end_does_not_count(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path / "none") is None
    for step, content in ((2, '{"global_step": 2}'), (10, '{"global_step": 10}'), (12, '{"glob'), (14, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if content is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(content)
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
