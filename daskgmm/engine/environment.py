"""What the last bits of a result depend on besides data, settings and seed.

The order of additions is always the same (see `tree`), but a product of matrices is rounded as its BLAS does it, which
has another kernel for each kind of processor, and so are NumPy's loops, the C library's functions and compiled code.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import PurePath
from typing import Any

import distributed
import numpy as np
import scipy.linalg  # noqa: F401  # loads its BLAS, which counts whether or not a task of this process has used it yet
from threadpoolctl import threadpool_info

from ..errors import ReproducibilityWarning
from ..version import __version__
from .blas import this_process

_PACKAGES = ("numpy", "scipy", "scikit-learn")

#: Under which workers tell what they are. One for all fits, because a scheduler keeps every topic for ever.
TOPIC = "daskgmm-workers"

Kinds = Mapping[str, Mapping[str, str]]
"""Address of a worker -> what its environment has in the place of its driver's."""

#: What only tells people where it was: the same bits may come from different ones.
INFORMATIVE = frozenset({"cpu"})


def environment() -> dict[str, str]:
    """Software and kind of processor that this process computes with, by name; the same bits come from equal ones.

    ========================  ==========================================================================
    ``daskgmm``, ``python``   versions, as those of ``numpy``, ``scipy`` and ``scikit-learn``
    ``platform``              operating system, machine, C library
    ``cpu``                   model of the processor: informative, the following two say what it does
    ``cpu_features``          instruction sets for which NumPy has loops and which it uses here
    ``blas``                  libraries of NumPy and SciPy: name, version, kernels for this processor
    ========================  ==========================================================================

    Returns
    -------
    dict of str to str
        A new one: what a process is made of is looked up once.
    """
    return dict(_environment())


def differences(ours: Mapping[str, str], theirs: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """What is not the same in two environments and may change bits, as (ours, theirs) by name."""
    names = [name for name in {**ours, **theirs} if name not in INFORMATIVE]
    pairs = {name: (ours.get(name, ""), theirs.get(name, "")) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


@dataclass(frozen=True)
class Witness:
    """Has every worker process tell, with its first task, in what it differs from its driver.

    It is the tasks that tell, and not workers that are asked: those that join later do, too, and nobody has to wait.
    """

    name: str
    """Of whoever wants to know."""
    driver: str = field(default_factory=this_process)
    expected: Mapping[str, str] = field(default_factory=environment)
    """The driver's environment."""

    def look(self) -> None:
        """Tell of this process, if it is not the driver's own."""
        if self.driver != this_process():
            _tell_once(self.name, tuple(self.expected.items()))


@lru_cache(maxsize=64)
def _tell_once(witness: str, expected: tuple[tuple[str, str], ...]) -> None:
    with suppress(ValueError):  # a process of another scheduler: it is on the driver's machine
        worker = distributed.get_worker()
        differs = {name: theirs for name, (_, theirs) in differences(dict(expected), environment()).items()}
        worker.log_event(TOPIC, {"witness": witness, "worker": worker.address, "differs": differs})


def found(events: Iterable[Mapping[str, Any]]) -> Kinds:
    """What workers have told a witness; of one that began anew, what it told last."""
    return {event["worker"]: event["differs"] for event in events}


def summary(kinds: Kinds) -> str:
    """In what workers differ from their driver, in a line; empty where they do not."""
    counts = Counter(_text(differs) for differs in kinds.values() if differs)
    return "; ".join(f"{n} of {len(kinds)} with {text}" for text, n in sorted(counts.items()))


def warn_of_different(kinds: Kinds, stacklevel: int = 1) -> None:
    """Warn if workers differ from each other: who did what then decides about the last bits."""
    if len({_text(differs) for differs in kinds.values()}) > 1:
        warnings.warn(
            f"Workers compute with different software or kinds of processors ({summary(kinds)}; the others as this "
            "process). Their results differ in the last bits, and so may those of the same call another time, when "
            "other workers do the work. Where it matters, use workers of one kind.",
            ReproducibilityWarning,
            stacklevel=stacklevel + 1,
        )


def _text(differs: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value or 'unknown'}" for name, value in differs.items())


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
    built: Any = _configuration().get("Build Dependencies", {}).get("blas", {})  # such as macOS's, which tells nothing
    return [f"{built.get('name', 'unknown')} {built.get('version', '')}".strip()]


_NAMES = ("internal_api", "version", "architecture")


def _serves_numpy(path: str) -> bool:
    """Whether NumPy or SciPy may use a library: other packages bring their own, which some processes import."""
    parts = set(PurePath(path).parts)
    if parts & {"numpy", "numpy.libs", "scipy", "scipy.libs"}:
        return True
    return not parts & {"site-packages", "dist-packages"}


def _configuration() -> Mapping[str, Any]:
    told: Any = np.show_config(mode="dicts")
    return told or {}
