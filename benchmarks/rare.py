"""How many rare clusters are found, and what looking for them costs in passes.

    python benchmarks/rare.py --output relocation.jsonl
    python benchmarks/rare.py --output relocation.jsonl --sizes 100 --tol 1e-4 --methods sample,moves
    python benchmarks/rare.py --report relocation.jsonl

A million rows in four clusters of unit width, and a fifth of half that, eight widths beside all of them, in 2, 3 and 4
dimensions. Each fit is added to the file as soon as it is known, and the same command goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe_machine, print_machine

from daskgmm import GaussianMixture
from daskgmm.fitting import relocation

N_MAIN = 4
DIMENSIONS, SEEDS, SIZES = (2, 3, 4), range(10), (1000, 100, 50, 20)

# What each method asks for, and how many moves it may make.
METHODS: dict[str, tuple[dict[str, Any], int]] = {
    "plain": ({}, relocation.MOST_MOVES),
    "sample": ({"init_size": 10_000, "n_init": "auto"}, 0),
    "moves": ({"init_size": 10_000, "n_init": "auto"}, relocation.MOST_MOVES),
}
TITLES = {"plain": "plain EM from k-means", "sample": "a start on a sample alone", "moves": "with moves"}

Record = dict[str, Any]


def make_data(seed: int, n_rows: int, n_features: int, n_rare: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (N, D), and where the rare cluster is, (D,)."""
    rng = np.random.default_rng(seed)
    means = 4 * rng.normal(size=(N_MAIN, n_features))
    x = means[rng.choice(N_MAIN, size=n_rows)] + rng.normal(size=(n_rows, n_features))
    away = rng.normal(size=n_features)
    away /= np.linalg.norm(away)
    offsets = means - means.mean(axis=0)
    place = means.mean(axis=0) + away * ((offsets @ away).max() + 8)
    rows = rng.choice(n_rows, n_rare, replace=False)
    x[rows] = place + 0.5 * rng.normal(size=(n_rare, n_features))
    return x, place


def has_found(model: GaussianMixture, place: np.ndarray, share: float) -> bool:
    """Whether a component is where the rare cluster is, and has its weight to a fifth."""
    distance = np.linalg.norm(model.means_ - place, axis=1)
    nearest = distance.argmin()
    return bool(distance[nearest] < 1 and 0.8 * share < model.weights_[nearest] < 1.2 * share)


def measure(x: np.ndarray, place: np.ndarray, n_rare: int, method: str, tol: float) -> Record:
    """One fit."""
    parameters, relocation.MOST_MOVES = METHODS[method]
    model = GaussianMixture(N_MAIN + 1, tol=tol, random_state=0, **parameters).fit(x)
    return {
        "found": has_found(model, place, n_rare / len(x)),
        "n_passes": model.n_passes_,
        "log_likelihood": model.lower_bound_,
        "kinds": [record.kind for record in model.history_],
    }


def missing(options: argparse.Namespace, done: set[tuple[Any, ...]]) -> Iterator[tuple[tuple[Any, ...], list[str]]]:
    """Data sets, and the methods that have not been tried on them."""
    for size, d, seed in itertools.product(options.sizes, DIMENSIONS, options.seeds):
        if left := [
            method for method in options.methods if (options.rows, size, d, seed, method, options.tol) not in done
        ]:
            yield (size, d, seed), left


def run(options: argparse.Namespace) -> None:
    """Make the fits that the file does not have."""
    done = {tuple(record["key"]) for record in read(options.output)}
    with options.output.open("a") as file:
        for (size, d, seed), methods in missing(options, done):
            x, place = make_data(seed, options.rows, d, size)
            for method in methods:
                found = measure(x, place, size, method, options.tol)
                file.write(json.dumps({"key": [options.rows, size, d, seed, method, options.tol], **found}) + "\n")
                file.flush()


def read(path: Path) -> list[Record]:
    """Records of a file, none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def report(records: list[Record]) -> None:
    """A table for each tolerance and number of rows: fits that found the cluster, of how many, and passes."""
    for n_rows, tol in sorted({(record["key"][0], record["key"][-1]) for record in records}, reverse=True):
        print(
            f"\n{n_rows:,} rows, tol={tol:g}\n\n| rare | {' | '.join(TITLES.values())} |\n|---|{'---|' * len(TITLES)}"
        )
        for size in sorted({record["key"][1] for record in records}, reverse=True):
            row = [r for r in records if r["key"][:2] == [n_rows, size] and r["key"][-1] == tol]
            print(f"| {size} | {' | '.join(_cell([r for r in row if r['key'][4] == method]) for method in TITLES)} |")


def _cell(records: list[Record]) -> str:
    if not records:
        return ""
    passes = np.mean([record["n_passes"] for record in records])
    return f"{sum(record['found'] for record in records)} of {len(records)} ({passes:.1f} passes)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("rare.jsonl"))
    parser.add_argument("--report", type=Path, help="only print the tables of this file")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--sizes", type=lambda text: [int(n) for n in text.split(",")], default=list(SIZES))
    parser.add_argument(
        "--seeds", type=lambda text: range(int(text)), default=SEEDS, help="data sets of each dimension"
    )
    parser.add_argument("--methods", type=lambda text: text.split(","), default=list(METHODS))
    parser.add_argument("--tol", type=float, default=1e-3)
    options = parser.parse_args()
    if options.report is None:
        print_machine(describe_machine())
        run(options)
    report(read(options.report or options.output))


if __name__ == "__main__":
    main()
