"""What kinds of devices can do, by their makers' data sheets: a name in, operations and bytes a second out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """What one device can do, by its maker's data sheet."""

    flops: float
    """Dense half-precision operations a second."""
    bandwidth: float
    """Bytes a second from its memory."""
    memory_gib: float


DEVICES = {
    "v100_32gb": Device(125e12, 900e9, 32),
    "a100_40gb": Device(312e12, 1555e9, 40),
    "a100_80gb": Device(312e12, 2039e9, 80),
    "l40s": Device(362e12, 864e9, 48),
    "h100_80gb": Device(989e12, 3350e9, 80),
    "h200": Device(989e12, 4800e9, 141),
    "cpu_core": Device(80e9, 20e9, 8),
}
"""Device -> its data sheet: SXM modules where there are several. `cpu_core` is no data sheet: one thread of an EPYC server
processor with torch 2.13 in float32 (a product of two 1,024 x 1,024 matrices, the sum of 256 MB), and 8 GiB for each."""


def peak(name: str) -> float | None:
    """Half-precision operations a second of a CUDA device by the name its driver gives; None where it is not known.

    A PCIe card does less than the module of the same name, so it counts as unknown.
    """
    words = name.lower().replace("-", " ").split()
    if "pcie" in words:
        return None
    return next((device.flops for kind, device in DEVICES.items() if kind.split("_")[0] in words), None)
