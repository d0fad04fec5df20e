"""Passes over the data that each strategy of a fit takes, and where the fits end, beside plain EM or scikit-learn.

    python benchmarks/strategies.py --output strategies.jsonl
    python benchmarks/strategies.py --output strategies.jsonl --data 'full:*' --strategies plain both-auto --seeds 2
    python benchmarks/strategies.py --output FILE.jsonl --strategies scikit-learn both-auto --reference scikit-learn

Fits of every strategy to every data set from several seeds, at several tolerances. Each is a line of the file as soon
as it is known, and the same command goes on where it was interrupted. Needs ``pip install 'daskgmm[bench]'``.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import permutations
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import sklearn.mixture
from machine import describe_machine
from sklearn.exceptions import ConvergenceWarning
from strategy_data import DATA_SETS, DataSet
from threadpoolctl import threadpool_limits

from daskgmm import GaussianMixture
from daskgmm.errors import InitializationWarning

Record = dict[str, Any]

SAMPLE = "a tenth of the rows"  # stands for `DataSet.init_size`
SCIKIT_LEARN = "scikit-learn"

STRATEGIES: dict[str, Record] = {
    "plain": {},
    "accelerated": {"acceleration": "lbfgs"},
    "sample": {"init_size": SAMPLE},
    "sample-several": {"init_size": SAMPLE, "n_init": 5},
    "both": {"init_size": SAMPLE, "acceleration": "lbfgs"},
    "both-several": {"init_size": SAMPLE, "acceleration": "lbfgs", "n_init": 5},
    "both-auto": {"init_size": SAMPLE, "acceleration": "lbfgs", "n_init": "auto"},
    SCIKIT_LEARN: {},
}
"""What each gives the constructor."""


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of fits that did not converge, or dropped a start: records say it."""
    with warnings.catch_warnings():
        for kind in (ConvergenceWarning, InitializationWarning):
            warnings.simplefilter("ignore", kind)
        yield


@quiet()
def fit(data: DataSet, strategy: str, seed: int, tol: float, max_iter: int) -> Record:
    """What one fit took and reached, on one thread; or why there is none."""
    rows, model = warm_rows(data), estimator(data, strategy, seed, tol, max_iter)
    begin = time.process_time()
    try:
        model.fit(rows)
    except ValueError as error:  # a component collapsed: daskgmm's own class derives from it
        return {"error": f"{type(error).__name__}: {error}"}
    return {
        "processor_seconds": time.process_time() - begin,
        "passes": getattr(model, "n_passes_", model.n_iter_),
        "n_iter": model.n_iter_,
        "converged": bool(model.converged_),
        "log_likelihood": float(model.score(rows)),
    }


def estimator(data: DataSet, strategy: str, seed: int, tol: float, max_iter: int) -> Any:
    options = {name: data.init_size if value == SAMPLE else value for name, value in STRATEGIES[strategy].items()}
    options |= {"covariance_type": data.covariance_type, "reg_covar": data.reg_covar, "random_state": seed}
    if strategy == SCIKIT_LEARN:
        return sklearn.mixture.GaussianMixture(data.n_components, tol=tol, max_iter=max_iter, **options)
    return GaussianMixture(data.n_components, tol=tol, max_iter=max_iter, scheduler="synchronous", **options)


@lru_cache(maxsize=1)
def warm_rows(data: DataSet) -> np.ndarray[Any, Any]:
    """Rows of a data set; whatever the first fit in a process loads and compiles is there after it."""
    rows = data.load()
    estimator(data, "plain", 0, 1e-3, max_iter=2).fit(rows)
    return rows


# ---- the file


def read(path: Path) -> list[Record]:
    """Records of a file; a last line without an end, which an interrupted run left, is cut off."""
    if not path.exists():
        return []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    return [json.loads(line) for line in whole.splitlines()]


def run(options: argparse.Namespace) -> list[Record]:
    """Measure what is missing; by data set, so that its rows are drawn once."""
    records = read(options.output)
    known = {json.dumps(record["key"]) for record in records}
    with options.output.open("a") as file, threadpool_limits(1):
        for data in options.data:
            for seed in range(options.seeds):
                for strategy in options.strategies:
                    for tol in options.tols:
                        key = [data.name, data.n_rows, options.max_iter, strategy, seed, tol]
                        if json.dumps(key) not in known:
                            about = {"key": key, "data": data.name, "strategy": strategy, "seed": seed, "tol": tol}
                            records.append(about | fit(data, strategy, seed, tol, options.max_iter))
                            print(json.dumps(records[-1]), file=file, flush=True)
    return records


# ---- the table


def pairs(records: Iterable[Record], reference: str) -> Iterator[tuple[str, Record, Record]]:
    """Strategy, its fit, and the reference's of the same rows, seed and tol; the reference beside its other seeds, too.

    That is what no strategy with a start of its own can be expected to exceed.
    """
    cases: dict[str, dict[str, Record]] = {}
    chances: dict[str, list[Record]] = {}
    for record in records:
        name, n_rows, max_iter, strategy, seed, tol = record["key"]
        cases.setdefault(json.dumps([name, n_rows, max_iter, seed, tol]), {})[strategy] = record
        if strategy == reference and "error" not in record:
            chances.setdefault(json.dumps([name, n_rows, max_iter, tol]), []).append(record)
    for fits in cases.values():
        of_it = fits.pop(reference, {"error": ""})
        if "error" not in of_it:
            yield from ((strategy, record, of_it) for strategy, record in fits.items())
    for seeds in chances.values():
        yield from ((f"{reference}, other seed", record, of_it) for of_it, record in permutations(seeds, 2))


def judge(compared: list[tuple[Record, Record]]) -> Record:
    """Figures of one strategy's fits beside the reference's; a fit that failed is neither good nor short."""

    def ratios(name: str) -> list[float]:
        return [math.inf if "error" in record else record[name] / of_it[name] for record, of_it in compared]

    gains = [
        (record.get("log_likelihood", -math.inf) - of_it["log_likelihood"]) / of_it["tol"] for record, of_it in compared
    ]
    return {
        "runs": len(compared),
        "as_good": fmean(gain >= -1 for gain in gains),
        "better": fmean(gain > 1 for gain in gains),
        "passes": median(ratios("passes")),
        "mean_passes": math.exp(fmean(map(math.log, ratios("passes")))),
        "processor_time": median(ratios("processor_seconds")),
    }


def verdicts(records: Iterable[Record], reference: str) -> dict[str, Record]:
    """By strategy, and by strategy and tol."""
    groups: dict[str, list[tuple[Record, Record]]] = {}
    for strategy, record, of_it in pairs(records, reference):
        for title in (strategy, f"{strategy}, tol {record['tol']:g}"):
            groups.setdefault(title, []).append((record, of_it))
    return {title: judge(compared) for title, compared in sorted(groups.items())}


def matching(pattern: str) -> list[DataSet]:
    found = [data for name, data in DATA_SETS.items() if fnmatchcase(name, pattern)]
    if not found:
        raise argparse.ArgumentTypeError(f"no data set is called {pattern!r}; there are {', '.join(DATA_SETS)}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, metavar="FILE.jsonl", required=True)
    parser.add_argument(
        "--data", nargs="+", type=matching, metavar="NAME", default=[list(DATA_SETS.values())],
        help="data sets, by patterns such as 'full:*' (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--strategies", nargs="+", choices=STRATEGIES, metavar="NAME", help=f"of {', '.join(STRATEGIES)}",
        default=[name for name in STRATEGIES if name != SCIKIT_LEARN],
    )  # fmt: skip
    parser.add_argument("--reference", default="plain", choices=STRATEGIES, metavar="NAME", help="default: plain")
    parser.add_argument("--seeds", type=int, default=5, help="fits of each kind (default 5)")
    parser.add_argument("--tols", nargs="+", type=float, default=[1e-3, 1e-5, 1e-7], metavar="TOL")
    parser.add_argument("--max-iter", type=int, default=5000, help="of every fit (default 5000)")
    parser.add_argument("--rows", type=int, help="so many of those that are drawn, at most so many of the others")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    chosen = dict.fromkeys(data.with_rows(options.rows) for found in options.data for data in found)
    missing = [data.name for data in chosen if data.missing()]
    options.data = [data for data in chosen if not data.missing()]
    found = verdicts(run(options), options.reference)
    if options.json:
        print(json.dumps({"machine": describe_machine(), "missing": missing, "verdicts": found}))
        return
    print(f"left out, pip install 'daskgmm[bench]': {', '.join(missing)}\n" if missing else "", end="")
    print(f"beside {options.reference}; passes and processor time are medians over its own\n")
    print("| strategy | runs | as good | better | passes | their mean | processor time |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for title, v in found.items():
        cells = [f"{v['as_good']:.1%}", f"{v['better']:.1%}"]
        cells += [f"{v[name]:.3g}" for name in ("passes", "mean_passes", "processor_time")]
        print(f"| {title} | {v['runs']} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
