"""Software and processor, on which the last bits of a result depend besides data, settings and seed.

The order of additions is always the same (see `tree`). Rounding inside a product of matrices depends on the BLAS, which
has another kernel for each kind of processor; so do NumPy's loops, the C library's functions and compiled code.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections.abc import Mapping
from functools import cache
from pathlib import PurePath
from typing import Any

import numpy as np
import scipy.linalg  # noqa: F401  # loads its BLAS, which belongs to the environment even before its first use
from threadpoolctl import threadpool_info

from ..version import __version__

_PACKAGES = ("numpy", "scipy", "scikit-learn")

#: Entries for people alone: environments that differ in them may give the same bits.
INFORMATIVE = frozenset({"cpu"})


def environment() -> dict[str, str]:
    """Software and kind of processor of this process, by name; equal environments give the same bits.

    ========================  ==========================================================================
    ``daskgmm``, ``python``   versions, as those of ``numpy``, ``scipy`` and ``scikit-learn``
    ``platform``              operating system, machine, C library
    ``cpu``                   model of the processor: informative; the following two decide about bits
    ``cpu_features``          instruction sets that NumPy uses here
    ``blas``                  libraries of NumPy and SciPy: name, version, kernels for this processor
    ========================  ==========================================================================

    Returns
    -------
    dict of str to str
        A new dict; the environment is looked up once in a process.
    """
    return dict(_environment())


def differences(ours: Mapping[str, str], theirs: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Entries that differ between two environments and may change bits, as (ours, theirs) by name."""
    names = [name for name in {**ours, **theirs} if name not in INFORMATIVE]
    pairs = {name: (ours.get(name, ""), theirs.get(name, "")) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


@cache
def _environment() -> Mapping[str, str]:
    return {
        "daskgmm": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
        "platform": _platform(),
        "cpu": _cpu(),
        "cpu_features": " ".join(_cpu_features()),
        "blas": ", ".join(_blas()),
    }


def _platform() -> str:
    libc = " ".join(filter(None, platform.libc_ver()))
    return f"{platform.system()} {platform.machine()}" + (f", {libc}" if libc else "")


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            found = re.search(r"^model name\s*: *(.+)$", file.read(1 << 16), re.MULTILINE)
    except OSError:
        return platform.processor() or platform.machine()
    return found[1].strip() if found else platform.machine()


def _cpu_features() -> list[str]:
    simd: Any = _configuration().get("SIMD Extensions", {})
    return [*simd.get("baseline", ()), *simd.get("found", ())]


def _blas() -> list[str]:
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas" and _serves_numpy(pool["filepath"])]
    found = {" ".join(str(pool.get(key) or "") for key in _NAMES).strip() for pool in pools}
    if found:
        return sorted(found)
    built: Any = (
        _configuration().get("Build Dependencies", {}).get("blas", {})
    )  # such as that of macOS, which threadpoolctl does not know
    return [f"{built.get('name', 'unknown')} {built.get('version', '')}".strip()]


_NAMES = ("internal_api", "version", "architecture")


def _serves_numpy(path: str) -> bool:
    """Test for a library that NumPy or SciPy may use; other packages bring libraries of their own."""
    parts = set(PurePath(path).parts)
    if parts & {"numpy", "numpy.libs", "scipy", "scipy.libs"}:
        return True
    return not parts & {"site-packages", "dist-packages"}


def _configuration() -> Mapping[str, Any]:
    told: Any = np.show_config(mode="dicts")
    return told or {}
