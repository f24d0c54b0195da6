from __future__ import annotations

import pytest

from selfalign.devices import DEVICES, peak


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100_80gb"),
        ("NVIDIA H100 80GB HBM3", "h100_80gb"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA L40S", "l40s"),
        ("Tesla V100-SXM2-32GB", "v100_32gb"),
    ],
)
def test_a_driver_s_name_finds_its_data_sheet(name: str, kind: str) -> None:
    assert peak(name) == DEVICES[kind].flops


@pytest.mark.parametrize("name", ["NVIDIA H100 PCIe", "NVIDIA GeForce RTX 4090", "NVIDIA L40"])
def test_another_device_has_no_known_peak(name: str) -> None:
    assert peak(name) is None
