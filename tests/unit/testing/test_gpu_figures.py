"""Figures of benchmarks.gpu by hand: ratios, shares of the peak, bars; peaks of devices."""

from __future__ import annotations

import pytest
import torch
from lightning_fabric.utilities import throughput

from benchmarks.gpu import figures
from benchmarks.gpu.figures import FLASH, LOOK, OURS, PLAIN, SOME, Bar, Measured
from benchmarks.gpu.peaks import PEAKS, peak_of_device


def test_a_ratio_is_the_median_of_the_quotients_within_turns():
    found = {PLAIN: Measured([4.0, 2.0, 8.0], [1, 1, 1], 1.0), OURS: Measured([1.0, 2.0, 1.0], [1, 1, 1], 1.0)}
    # quotients 4, 1, 8: their median is 4, their mean 4.33
    assert figures.factor(found, OURS) == 4.0
    assert figures.factor(found, PLAIN) == 1.0
    assert figures.factor(found, SOME) is None and figures.factor({OURS: found[OURS]}, OURS) is None


def test_the_base_is_the_plain_loop_of_the_lowest_median():
    sdpa, flash, ours = Measured([4.0, 4.0, 9.0], [1] * 3, 1.0), Measured([3.0] * 3, [1] * 3, 1.0), Measured([1.0] * 3, [1] * 3, 1.0)  # fmt: skip
    assert figures.fastest_plain({PLAIN: sdpa, FLASH: flash}) == FLASH
    assert figures.factor({PLAIN: sdpa, FLASH: flash, OURS: ours}, OURS) == 3.0
    assert figures.factor({PLAIN: sdpa, OURS: ours}, OURS) == 4.0


def test_lines_have_medians_quartiles_and_shares_of_the_peak():
    # 2, 2 and 12 TFLOP in 0.1, 0.2 and 0.4 s: 20, 10 and 30 TFLOP/s of 100
    ours = Measured([0.1, 0.2, 0.4], [2 * 10**12, 2 * 10**12, 12 * 10**12], 1.5)
    found = {PLAIN: Measured([0.4, 0.4, 0.4], [10**12] * 3, 2.0), OURS: ours}
    line = figures.lines(found, 100e12)[1]
    assert line == [OURS, "200.0", "150.0 to 300.0", "2.00x", "1.50", "5.33", "20%"]
    assert len(line) == len(figures.HEADER)
    assert figures.lines(found, None)[1][-1] == "unknown"
    assert figures.lines({OURS: ours}, None)[0][3] == "-"


@pytest.mark.parametrize(
    ("reached", "verdict"), [(3.0, "met"), (3.01, "met"), (2.99, "not met"), (0.0, "not met"), (None, "not measured")]
)
def test_a_bar_is_met_from_its_target_on(reached, verdict):
    assert Bar("m", 3.0, reached).verdict == verdict
    assert Bar("m", 3.0, reached).line()[-1] == verdict


def test_a_bar_of_a_share_is_in_percent():
    assert Bar("m", 0.4, 0.43, share=True).line() == ["m", "40%", "43%", "met"]
    assert Bar("m", 3.0, 2.5).line() == ["m", "3.00x", "2.50x", "not met"]
    assert Bar("m", 0.4, None, share=True).line() == ["m", "40%", "-", "not measured"]


def test_bars_of_a_part_are_three_and_eight_times_and_the_share_at_the_longest_rows():
    found = {
        PLAIN: Measured([8.0] * 3, [80] * 3, 1.0),
        OURS: Measured([2.0] * 3, [100] * 3, 1.0),
        SOME: Measured([1.0] * 3, [1] * 3, 1.0),
        LOOK: Measured([1.6] * 3, [1] * 3, 1.0),
    }
    made = {bar.measure: bar for bar in figures.bars("P", found, 100.0, longest=True)}
    assert [(bar.target, bar.reached, bar.verdict) for bar in made.values()] == [
        (3.0, 4.0, "met"), (8.0, 8.0, "met"), (8.0, 5.0, "not met"), (0.4, 0.5, "met"),
    ]  # fmt: skip
    assert len(figures.bars("P", found, 100.0, longest=False)) == 3
    assert {bar.verdict for bar in figures.bars("P", {}, 100.0, longest=True)} == {"not measured"}
    assert figures.bars("P", found, None, longest=True)[-1].verdict == "not measured"


def test_a_way_pays_that_is_faster_in_three_quarters_of_the_turns():
    base = [1.0] * 5
    # the lower quartile of five quotients is the second smallest, the upper the second largest
    assert figures.pays(base, [1.2, 0.9, 0.9, 0.9, 0.9]) == "pays"
    assert figures.pays(base, [1.2, 1.2, 0.9, 0.9, 0.9]) == "no clear difference"
    assert figures.pays(base, [1.2, 1.2, 1.2, 1.2, 0.9]) == "does not pay"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("NVIDIA H200", "H200"), ("NVIDIA H200 NVL", "H200 NVL"), ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA H100 80GB HBM3", "H100"), ("NVIDIA H100 PCIe", "H100 PCIe"), ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100 80GB PCIe", "A100"), ("NVIDIA A10", "A10"), ("NVIDIA L4", "L4"), ("NVIDIA L40S", "L40S"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"), ("NVIDIA RTX A6000", "RTX A6000"), ("NVIDIA B200", "B200"),
    ],
)  # fmt: skip
def test_devices_have_the_peak_of_their_card(name, words):
    assert peak_of_device(name) == PEAKS[words] * 1e12


@pytest.mark.parametrize(
    "name",
    ["NVIDIA A10G", "Tesla T4", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 3090 Ti",
     "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA H20", "NVIDIA RTX 6000 Ada Generation"],
)  # fmt: skip
def test_the_peak_of_another_card_is_unknown(name):
    assert peak_of_device(name) is None


def test_peaks_are_those_of_lightning_where_it_counts_dense_products():
    known = {"H100": "h100 sxm", "H100 PCIe": "h100 pcie", "A100": "a100", "L4": "l4", "L40": "l40"}
    table = throughput._CUDA_FLOPS
    assert {name: PEAKS[name] for name in known} == {
        name: pytest.approx(float(table[theirs][torch.bfloat16]) / 1e12, rel=1e-3) for name, theirs in known.items()
    }
