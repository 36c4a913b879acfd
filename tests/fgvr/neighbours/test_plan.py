from dataclasses import asdict

import pytest

from fgvr.neighbours.exact import Product
from fgvr.neighbours.machine import Machine, available_memory, gemm_rate, this_machine
from fgvr.neighbours.plan import Plan, Size, Wanted, plan

GIB = 2.0**30
TWO_CORES = Machine(Product("cpu", "bfloat16"), rate=220e9, fp32_rate=110e9, memory=8 * GIB)
H100 = Machine(Product("cuda", "float16"), rate=700e12, fp32_rate=50e12, memory=80 * GIB)


def all_points(count, dim=512):
    return Size(count, count, dim)


def test_two_cores_search_eighty_thousand_exactly_and_a_million_by_lists():
    # 2 · 80,000² · 512 = 6.55e12 operations, 59.6 s at half of 220 GFLOP/s; 81,000 would take 61.1 s.
    near = plan(all_points(80_000), TWO_CORES)
    assert (near.method, near.tasks, near.shards) == ("exact", False, 1)
    assert near.seconds == pytest.approx(59.58, abs=0.01)
    assert (
        "about 60 s on 1 × cpu at half of the measured 220 GFLOP/s (bfloat16; fp32 110); 60 s are allowed"
        in (near.reasons[0])
    )
    assert plan(all_points(81_000), TWO_CORES).method == "ivf"
    million = plan(all_points(1_000_000), TWO_CORES)
    assert (million.method, million.lists, million.shards) == ("ivf", 4000, 1)


def test_one_gpu_searches_fifty_million_exactly():
    # 2 · (5e7)² · 512 = 2.56e18 operations: 2.03 h at 350 TFLOP/s, and 49 million take 1.95 h of the two allowed.
    assert plan(all_points(49_000_000), H100).method == "exact"
    assert plan(all_points(49_000_000), H100).tasks
    assert plan(all_points(51_000_000), H100).method == "ivf"
    assert not plan(all_points(1_000_000), H100).tasks  # three seconds
    eight = plan(all_points(100_000_000), H100.times(8))  # 1.02 h, and 95.4 GiB of vectors
    assert (eight.method, eight.tasks, eight.shards) == ("exact", True, 2)
    assert eight.seconds == pytest.approx(1.024e19 / (8 * 350e12))


def test_a_database_larger_than_a_machine_is_cut_into_shards():
    sharded = plan(all_points(20_000_000), TWO_CORES, Wanted("exact"))  # 20.5 GB against 8.6 GB
    assert (sharded.shards, sharded.tasks, sharded.method) == (3, True, "exact")
    assert any("3 shards" in reason for reason in sharded.reasons)


def test_the_config_overrules():
    assert plan(all_points(1000), TWO_CORES, Wanted("ivf")).method == "ivf"
    assert plan(all_points(1_000_000), TWO_CORES, Wanted(exact_seconds=1e5)).method == "exact"
    facts = plan(all_points(1000), TWO_CORES).facts()
    assert (facts["device"], facts["dtype"], facts["method"]) == ("cpu", "bfloat16", "exact")


def test_exact_search_is_the_way_out_up_to_five_times_the_seconds_allowed():
    # 2 · 170,000² · 512 = 2.96e13 operations, 269 s at half of 220 GFLOP/s; 180,000 would take 302 s of 5 · 60.
    near = plan(all_points(170_000), TWO_CORES)
    assert (near.method, near.falls_back) == ("ivf", True)
    assert near.exact_seconds == pytest.approx(269.0, abs=0.1)
    assert not plan(all_points(180_000), TWO_CORES).falls_back
    assert plan(all_points(180_000), TWO_CORES, Wanted(exact_seconds=61)).falls_back
    assert not plan(all_points(1000), TWO_CORES).falls_back  # it is exact already
    exactly = near.exactly("too few")
    assert (exactly.method, exactly.lists, exactly.seconds) == ("exact", 0, near.exact_seconds)
    assert exactly.reasons == (*near.reasons, "too few: searched exactly instead, about 269 s")
    known = asdict(near)
    assert Plan.read(known).falls_back
    del known["falls_back"], known["exact_seconds"]  # of a run that was begun before there were any
    assert not Plan.read(known).falls_back


def test_this_machine_is_measured_once_and_takes_the_quicker_type():
    machine = this_machine("cpu", 1)
    assert machine is this_machine("cpu", 1)
    assert machine.rate >= machine.fp32_rate > 1e8
    assert (machine.product.dtype == "bfloat16") == (machine.rate > machine.fp32_rate)
    assert machine.memory == pytest.approx(available_memory(), rel=0.5)
    assert gemm_rate("cpu", "float32", repeats=1) > 1e8
