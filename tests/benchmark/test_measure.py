import os
import time

import pytest
import torch
from torch import nn

from nnunet_attn.architectures.blocks.axial_attention import GatedAxialAttention
from nnunet_attn.benchmark import measure

CPU = torch.device("cpu")


def test_peak_of_two_tensors_alive_at_once():
    x = torch.zeros(1000)

    def work():
        doubled = x + x  # 4000 bytes
        tripled = doubled + x  # 4000 more, while `doubled` lives: 8000
        del doubled
        return tripled + x  # 4000 more, but `doubled` is gone: 8000 again

    assert measure.peak_allocated_bytes(work, CPU) == 8000


def test_peak_counts_what_autograd_keeps_and_makes():
    weight, x = torch.ones(1000, requires_grad=True), torch.ones(1000)

    def work():
        # The product (4000) dies after the sum (4); backward has the sum (4), its gradient (4), the weight's (4000).
        (weight * x).sum().backward()

    assert measure.peak_allocated_bytes(work, CPU) == 4008


def test_peak_of_nothing_and_of_releases_only():
    held = [torch.zeros(1000)]
    assert measure.peak_allocated_bytes(lambda: None, CPU) == 0
    assert measure.peak_allocated_bytes(held.clear, CPU) == 0


@pytest.mark.parametrize("level", [None, "3"])
def test_the_profiler_is_quiet_and_leaves_the_environment_alone(level, monkeypatch, capfd):
    monkeypatch.delenv("KINETO_LOG_LEVEL", raising=False)
    if level is not None:
        monkeypatch.setenv("KINETO_LOG_LEVEL", level)
    before = dict(os.environ)
    measure.peak_allocated_bytes(lambda: torch.zeros(10), CPU)
    assert dict(os.environ) == before
    if level is None:
        assert capfd.readouterr().err == ""


def test_held_bytes_are_parameters_buffers_and_inputs():
    network = nn.Sequential(nn.Linear(10, 5), nn.BatchNorm1d(5))
    # Linear 10*5 + 5, norm 5 + 5 and its buffers 5 + 5 floats and one int64 counter; the input 2*10 floats.
    assert measure.held_bytes(network, torch.zeros(2, 10)) == 4 * (55 + 20 + 20) + 8


def test_flops_of_a_convolution():
    # 2 images * 5 channels * 8 * 10 positions = 800 outputs of 3 channels * 3 * 3 = 27 products and as many sums.
    assert measure.forward_flops(nn.Conv2d(3, 5, 3, padding=1), torch.zeros(2, 3, 8, 10)) == 800 * 27 * 2


@pytest.mark.parametrize(("variant", "similarities", "results"), [("gated", 3, 2), ("no_position", 1, 1)])
def test_flops_of_axial_attention(variant, similarities, results):
    layer = GatedAxialAttention(16, 0, 4, num_heads=4, variant=variant).eval()
    # 2 images of 4 x 5 voxels. Projection: 16 * 32 products a voxel. In each of 2 * 5 lines and 4 heads 4 * 4 pairs: a
    # head has 4 channels, 2 for each similarity and 4 for each result.
    pairs = 2 * 5 * 4 * 4 * 4
    expected = 2 * (2 * 4 * 5 * 16 * 32 + pairs * (2 * similarities + 4 * results))
    assert measure.forward_flops(layer, torch.zeros(2, 16, 4, 5)) == expected


def test_flops_of_a_matrix_product_leave_the_activation_out():
    network = nn.Sequential(nn.Linear(7, 11, bias=False), nn.LeakyReLU())
    assert measure.forward_flops(network, torch.zeros(3, 7)) == 3 * 7 * 11 * 2


def test_paired_ratios_are_taken_round_by_round():
    # 2/1, 6/2, 3/3 = 2, 3, 1: median 2, quartiles half-way between neighbours; the medians' ratio would be 3/2.
    assert measure.paired_ratios([2.0, 6.0, 3.0], [1.0, 2.0, 3.0]) == {"median": 2.0, "q25": 1.5, "q75": 2.5}


def test_paired_ratios_need_pairs():
    with pytest.raises(ValueError):
        measure.paired_ratios([1.0, 2.0], [1.0])


def test_interleaved_turns_the_order_in_every_second_round_and_drops_the_first():
    done = []
    works = {name: {kind: lambda key=name + kind: done.append(key) for kind in "fs"} for name in "AB"}

    def clock(work):
        work()
        return float(len(done))

    times = measure.interleaved(works, clock, rounds=2)
    assert done == ["Bf", "Af", "Bs", "As", "Af", "Bf", "As", "Bs", "Bf", "Af", "Bs", "As"]
    assert times == {"A": {"f": [5.0, 10.0], "s": [7.0, 12.0]}, "B": {"f": [6.0, 9.0], "s": [8.0, 11.0]}}


def test_no_more_rounds_than_there_is_time_for(monkeypatch):
    # The clock on the wall goes on by 1 for each round, the one thrown away too. After rounds 1, 2, 3 it shows 2, 3, 4,
    # and another round would end at 3, 4, 5: later than 4 after the third.
    now = iter(range(100))
    monkeypatch.setattr(measure.time, "monotonic", lambda: next(now))
    works = {"A": {"f": lambda: None}}
    assert measure.interleaved(works, lambda work: 1.0, rounds=50, seconds=4) == {"A": {"f": [1.0] * 3}}
    assert measure.interleaved(works, lambda work: 1.0, rounds=50, seconds=0) == {"A": {"f": [1.0]}}
    assert measure.interleaved(works, lambda work: 1.0, rounds=2, seconds=4) == {"A": {"f": [1.0] * 2}}


def test_cpu_clock_does_not_see_waiting_and_the_wall_clock_does():
    assert measure.cpu_seconds(lambda: time.sleep(0.1)) < 0.05
    assert measure.wall_seconds(lambda: time.sleep(0.02)) >= 0.02


def test_threads_are_put_back():
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError), measure.threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise RuntimeError
    assert torch.get_num_threads() == before
