"""Is this working tree slower than another commit? Run it before and after a change.

    python benchmarks/regression.py --against HEAD~1

Both versions run the same cases in child processes of their own, in turns, because the speed of a machine drifts: only
the ratio of a round says something. A case is timed by the pass events of the public interface, so any two versions
that have it can be compared. With `--fail-above 1.2` a median ratio above that ends in exit status 1.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
Array = np.ndarray[Any, np.dtype[Any]]


# ---- in the child: one version of the library


def draw(n_rows: int, n_features: int, n_components: int, dtype: str) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    means = 2 * rng.normal(size=(n_components, n_features))
    rows = rng.normal(size=(n_rows, n_features)) + means[rng.integers(n_components, size=n_rows)]
    return rows.astype(dtype), means


def estep(n_features: int, n_components: int, structure: str, dtype: str, kind: str, size: float) -> float:
    """Seconds of an EM pass: of rows in memory on one thread or all, or of a Zarr store on all."""
    from daskgmm import GaussianMixture
    from daskgmm.events import PassFinished

    n_rows = max(2000, int(size * 4e7 / (n_features * n_components)))
    rows, means = draw(n_rows, n_features, n_components, dtype)
    passes: list[float] = []

    def listen(event: Any) -> None:
        if isinstance(event, PassFinished) and event.label == "estep":
            passes.append(event.seconds)

    with tempfile.TemporaryDirectory() as folder:
        data: Any = rows
        if kind == "zarr":
            data = stored(rows, folder)
        GaussianMixture(
            n_components,
            covariance_type=structure,
            tol=0,
            max_iter=5,
            weights_init=np.full(n_components, 1 / n_components),
            means_init=means,
            init_params="random_from_data",
            random_state=0,
            scheduler="synchronous" if kind == "one thread" else "threads",
            callbacks=[listen],
        ).fit(data)
    return median(passes[1:])  # the first one may load what the others use


def predict(size: float) -> float:
    """Seconds to label a Zarr store."""
    from daskgmm import GaussianMixture

    rows, _ = draw(max(2000, int(size * 1e6)), 8, 8, "float64")
    model = GaussianMixture(8, max_iter=1, random_state=0).fit(rows[:10_000])
    with tempfile.TemporaryDirectory() as folder:
        labels = model.predict(stored(rows, folder))
        labels.compute()
        begin = time.perf_counter()
        labels.compute()
        return time.perf_counter() - begin


def stored(rows: Array, folder: str) -> str:
    import zarr

    path = f"{folder}/rows.zarr"
    chunk = max(1, (4 << 20) // (rows.shape[1] * rows.itemsize))
    zarr.create_array(path, shape=rows.shape, chunks=(chunk, rows.shape[1]), dtype=rows.dtype)[:] = rows
    return path


CASES: dict[str, Callable[[float], float]] = {
    "full 2,10": lambda size: estep(2, 10, "full", "float64", "one thread", size),
    "full 16,32": lambda size: estep(16, 32, "full", "float64", "one thread", size / 4),
    "full 16,32 float32": lambda size: estep(16, 32, "full", "float32", "one thread", size / 2),
    "full 64,16": lambda size: estep(64, 16, "full", "float64", "one thread", size / 16),
    "tied 16,32": lambda size: estep(16, 32, "tied", "float64", "one thread", size),
    "diag 16,32": lambda size: estep(16, 32, "diag", "float64", "one thread", size),
    "spherical 16,32": lambda size: estep(16, 32, "spherical", "float64", "one thread", size),
    "full 8,16, all threads": lambda size: estep(8, 16, "full", "float64", "threads", size),
    "full 8,16, Zarr, all threads": lambda size: estep(8, 16, "full", "float64", "zarr", size),
    "predict 8,8, Zarr, all threads": predict,
}


def run_cases(names: list[str], size: float) -> dict[str, Any]:
    """Seconds of every case, and where the library is that took them."""
    import daskgmm

    warnings.simplefilter("ignore")  # fits are stopped on purpose
    return {"library": daskgmm.__file__, "seconds": {name: CASES[name](size) for name in names}}


# ---- in the parent


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """The files of a commit, in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", tree, commit], cwd=ROOT, check=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, check=True)


def measure(tree: Path, names: list[str], size: float) -> dict[str, float]:
    """Seconds of every case with the library of that tree."""
    command = [sys.executable, __file__, "--child", "--size", str(size), "--cases", *names]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    answer = json.loads(done.stdout)
    if not Path(answer["library"]).is_relative_to(tree):
        raise SystemExit(f"{answer['library']} ran where the library of {tree} was meant")
    seconds: dict[str, float] = answer["seconds"]
    return seconds


def compare(other: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    rounds = []
    for number in range(options.rounds + 1):
        taken = {name: measure(tree, options.cases, options.size) for name, tree in (("here", ROOT), ("there", other))}
        if number:  # the first round fills caches, of the disk and of compiled code
            rounds.append(taken)
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return [
        {
            "case": case,
            "here": [r["here"][case] for r in rounds],
            "there": [r["there"][case] for r in rounds],
            "ratio": median(r["here"][case] / r["there"][case] for r in rounds),
        }
        for case in options.cases
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--against", default="HEAD", metavar="COMMIT", help="what to compare with (default HEAD)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each version (default 5)")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES), metavar="CASE")
    parser.add_argument("--size", type=float, default=1.0, help="factor for the number of rows (default 1)")
    parser.add_argument("--fail-above", type=float, metavar="RATIO", help="exit status 1 if a median ratio is above")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(run_cases(options.cases, options.size)))
        return 0
    with checkout(options.against) as other:
        results = compare(other, options)
    if options.json:
        print(json.dumps({"against": options.against, "results": results}, indent=1))
    else:
        print(f"{'case':32} {'this tree':>10} {options.against:>10} {'ratio':>6}   lower is faster")
        for r in results:
            print(f"{r['case']:32} {median(r['here']):9.3f}s {median(r['there']):9.3f}s {r['ratio']:6.2f}")
    worst = max(r["ratio"] for r in results)
    return int(options.fail_above is not None and worst > options.fail_above)


if __name__ == "__main__":
    sys.exit(main())
