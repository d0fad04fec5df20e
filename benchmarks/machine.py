"""What a measurement was taken on: without it a number says nothing."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info

PACKAGES = ("daskgmm", "numpy", "scipy", "scikit-learn", "dask", "distributed", "zarr")


def describe_machine() -> dict[str, Any]:
    """Processor, cores that this process may use, BLAS, and versions."""
    blas = [f"{pool['internal_api']} {pool['version']}" for pool in threadpool_info() if pool["user_api"] == "blas"]
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "blas": sorted(set(blas)),
        "versions": {package: version(package) for package in PACKAGES},
    }


def _processor() -> str:
    """The model's name; `platform.processor` has no more than the instruction set on Linux."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def print_machine(machine: dict[str, Any]) -> None:
    """Two lines for people."""
    print(f"{machine['processor']}, {machine['cores']} cores, {machine['system']}, {', '.join(machine['blas'])}")
    print(
        ", ".join(f"{name} {number}" for name, number in {"python": machine["python"], **machine["versions"]}.items())
    )
