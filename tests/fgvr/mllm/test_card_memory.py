"""Which card's memory counts, as a driver would say it: an executable that answers like nvidia-smi."""

import logging
from pathlib import Path

import pytest

from fgvr.config.models import VllmBackend
from fgvr.mllm.vllm_engine import start as engine_start
from fgvr.mllm.vllm_engine.memory import (
    GIB,
    EngineSize,
    NotEnoughMemory,
    card_bytes,
    cards_here,
    own_card_is_known,
    smallest_here,
)

DRIVER = """#!/usr/bin/env python3
import sys
cards = [("GPU-aa11", 2048), ("GPU-bb22", 24564), ("GPU-cc33", 81559)]
if "-L" in sys.argv:
    print("GPU 0: NVIDIA H100 (UUID: GPU-cc33)")
    print("  MIG 1g.10gb     Device  0: (UUID: MIG-1111-aaaa)")
    print("  MIG 1c.3g.40gb  Device  1: (UUID: MIG-2222-bbbb)")
    raise SystemExit
if "-i" in sys.argv:
    asked = sys.argv[sys.argv.index("-i") + 1].split(",")
    found = [[n for n, (uuid, _) in enumerate(cards) if name == str(n) or uuid.startswith(name)] for name in asked]
    if [] in found:
        print("No devices were found")
        raise SystemExit(6)
    cards = [cards[numbers[0]] for numbers in found]
for _, size in cards:
    print(size)
"""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a display card of 2 GiB, one of 24 and one of 80, in the order of the slots."""
    program = tmp_path / "nvidia-smi"
    program.write_text(DRIVER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    return program


@pytest.mark.parametrize(
    ("visible", "mib"),
    [
        (None, [2048, 24564, 81559]),
        ("0", [2048]),
        ("1", [24564]),
        ("2,1", [81559, 24564]),
        ("GPU-bb22", [24564]),
        ("GPU-cc", [81559]),
        (" 1 , 2 ", [24564, 81559]),
        ("1,-1,2", [24564]),
        ("MIG-1111-aaaa", [10 * 1024]),
        ("MIG-2222-bbbb,MIG-1111-aaaa", [40 * 1024, 10 * 1024]),
        ("MIG-9999", []),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("7", []),
    ],
)
def test_the_cards_that_ray_gave(driver: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, mib: list[int]):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert cards_here() == [size * 2**20 for size in mib]
    assert smallest_here() == (min(mib) * 2**20 if mib else None)


def test_a_driver_that_answers_for_all_cards_whatever_it_is_asked(driver: Path, monkeypatch: pytest.MonkeyPatch):
    driver.write_text("#!/bin/sh\necho 2048; echo 24564")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert cards_here() == [24564 * 2**20]


def test_without_a_driver_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (cards_here(), smallest_here()) == ([], None)
    assert (card_bytes("L4"), card_bytes("A100")) == (24 * GIB, None)


def start(monkeypatch: pytest.MonkeyPatch, needs_gib: float, **mllm: object) -> None:
    size = EngineSize(weights=int(needs_gib * GIB), token=0, longest=0, activations=0)
    monkeypatch.setattr(engine_start, "size_of", lambda *_: size)
    engine_start._check_size(VllmBackend(**mllm), None, on_cpu=False)


def test_an_engine_is_measured_by_its_own_card(driver: Path, monkeypatch: pytest.MonkeyPatch):
    engine_start.count_cards_as_the_driver()
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    start(monkeypatch, 20)  # the display card has 2
    with pytest.raises(NotEnoughMemory, match=r"on 1 GPU\(s\) of 24 GiB"):
        start(monkeypatch, 40)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    with pytest.raises(NotEnoughMemory, match=r"on 2 GPU\(s\) of 24 GiB"):
        start(monkeypatch, 90, tensor_parallel_size=2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,1")  # of two, an engine for one takes the first
    start(monkeypatch, 60)


def test_where_the_card_is_not_known_it_is_tried(driver: Path, monkeypatch: pytest.MonkeyPatch, caplog):
    caplog.set_level(logging.WARNING)
    start(monkeypatch, 20)  # nobody chose among cards that differ
    assert "It is tried all the same" in caplog.text
    assert not own_card_is_known(cards_here())
    driver.write_text("#!/bin/sh\necho 24564; echo 24564")
    with pytest.raises(NotEnoughMemory):
        start(monkeypatch, 40)
