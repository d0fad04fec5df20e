"""Share of fits that find a good optimum: the truth of clusters that are apart, or the best known of real data.

    python benchmarks/optima.py --output optima.jsonl
    python benchmarks/optima.py --output optima.jsonl --data 'apart:2x*' --strategies default both-100000 --seeds 2
    python benchmarks/optima.py --output real.jsonl --real

Without --real, each seed draws a mixture of every shape afresh, whose closest components are 8 apart in Bhattacharyya's
distance, and a fit loses what its mean log-likelihood is below that of the parameters that the rows were drawn from.
With --real it loses what it is below the best of all fits in the file. Each fit is a line of the file as soon as it is
known, and the same command goes on where it was interrupted. Needs ``pip install 'daskgmm[bench]'``.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import sklearn.mixture
from data_sets import APART, REAL, DataSet
from drawn import SeparatedDrawing
from machine import describe_machine
from scipy.linalg import solve_triangular
from settings import STRATEGIES
from trials import Trial, available, choosing, complete, number, print_missing, print_table, warm_rows

Record = dict[str, Any]

OWN = "own"  # stands for the estimator's default tol
DRAWN_LOSS, REAL_LOSS = 0.003, 0.005  # nats a row


# ---- clusters that are apart


def afresh(data: DataSet, seed: int) -> DataSet:
    """The same shape, drawn from another seed."""
    drawing = data.rows.take
    assert isinstance(drawing, SeparatedDrawing)
    return replace(data, rows=replace(data.rows, take=replace(drawing, seed=seed)))


@lru_cache(maxsize=1)
def log_likelihood_of_truth(data: DataSet) -> float:
    """Mean log-likelihood of the rows under the mixture that they were drawn from."""
    assert isinstance(data.rows.take, SeparatedDrawing)
    truth = sklearn.mixture.GaussianMixture(data.n_components)
    truth.weights_, truth.means_, roots = data.rows.take.mixture(data.n_components)
    unit = np.eye(data.n_features)
    truth.precisions_cholesky_ = np.stack([solve_triangular(root, unit, lower=True).T for root in roots])
    return float(truth.score(warm_rows(data)))


def fit_and_loss(trial: Trial) -> Record:
    """Record of a fit to drawn rows, with its loss to the truth."""
    record = trial.fit()
    if "error" not in record:
        record["loss"] = log_likelihood_of_truth(trial.data) - record["log_likelihood"]
    return record


# ---- real data


def with_losses(records: list[Record]) -> list[Record]:
    """With the loss of each fit to the best of its rows in the file."""
    best: dict[str, float] = {}
    for record in records:
        rows = json.dumps(record["key"][:2])
        best[rows] = max(best.get(rows, -math.inf), record.get("log_likelihood", -math.inf))
    return [
        record | ({} if "error" in record else {"loss": best[json.dumps(record["key"][:2])] - record["log_likelihood"]})
        for record in records
    ]


# ---- the table


def trials(options: argparse.Namespace) -> Iterator[Trial]:
    """By data set and seed, so that rows are made once."""
    for data in options.data:
        for seed in range(options.seeds):
            rows = data if options.real else afresh(data, seed)
            for strategy in options.strategies:
                for tol in options.tols:
                    yield Trial(rows, strategy, seed, None if tol == OWN else float(tol), options.max_iter)


def judge(records: list[Record], within: float) -> Record:
    """Figures of one strategy; a fit that failed has lost everything."""
    losses = [record.get("loss", math.inf) for record in records]
    fitted = [record for record in records if "error" not in record]
    measures = ("processor_seconds", "passes", "n_iter")
    return {
        "fits": len(records),
        "good": fmean(loss <= within for loss in losses),
        "median_loss": median(losses),
        "largest_loss": max(losses),
        "missed": {f"{r['data']} seed {r['seed']}": r.get("loss") for r in records if r.get("loss", math.inf) > within},
        **{name: median(record[name] for record in fitted) if fitted else None for name in measures},
    }


def verdicts(records: Iterable[Record], within: float, by_data: bool) -> dict[str, Record]:
    """By strategy and tol; ``by_data``, by data set, too."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        title = record["strategy"] if record["tol"] is None else f"{record['strategy']}, tol {record['tol']:g}"
        groups.setdefault(title, []).append(record)
        if by_data:
            groups.setdefault(f"{title}, {record['data']}", []).append(record)
    return {title: judge(group, within) for title, group in sorted(groups.items())}


def figures(title: str, verdict: Record) -> list[str]:
    measures = ("median_loss", "largest_loss", "processor_seconds", "passes", "n_iter")
    return [title, str(verdict["fits"]), f"{verdict['good']:.1%}", *(number(verdict[of]) for of in measures)]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, metavar="FILE.jsonl", required=True)
    parser.add_argument("--real", action="store_true", help="real data instead of drawn mixtures; another file")
    parser.add_argument("--data", nargs="+", metavar="NAME", help="data sets, by patterns such as 'apart:2x*'")
    parser.add_argument(
        "--strategies", nargs="+", choices=STRATEGIES, metavar="NAME", default=["default", "plain", "both-100000"],
        help=f"of {', '.join(STRATEGIES)} (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, help="fits of each kind (default 4; 20 with --real)")
    parser.add_argument(
        "--tols", nargs="+", metavar="TOL", help=f"{OWN}: the default's (default; 1e-5, too, if --real)"
    )
    parser.add_argument("--max-iter", type=int, help="of every fit (default: the estimator's)")
    parser.add_argument("--rows", type=int, help="so many drawn rows, at most so many real ones")
    parser.add_argument("--within", type=float, help=f"largest loss of a good optimum ({DRAWN_LOSS}; real {REAL_LOSS})")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    data_sets = REAL if options.real else APART
    try:
        options.data = list(map(choosing(data_sets), options.data or ["*"]))
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))
    options.seeds = options.seeds or (20 if options.real else 4)
    options.tols = options.tols or ([OWN, "1e-5"] if options.real else [OWN])
    options.within = options.within or (REAL_LOSS if options.real else DRAWN_LOSS)
    return options


def main() -> None:
    options = parse()
    options.data, missing = available(options.data, options.rows)
    if options.real:
        records = with_losses(complete(options.output, trials(options)))
    else:
        records = complete(options.output, trials(options), fit_and_loss)
    found = verdicts(records, options.within, by_data=options.real)
    if options.json:
        print(json.dumps({"machine": describe_machine(), "missing": missing, "verdicts": found}))
        return
    print_missing(missing)
    print(f"good: at most {options.within:g} nats a row lost; seconds, passes and iterations are medians\n")
    header = ["strategy", "fits", "good", "median loss", "largest", "processor s", "passes", "iterations"]
    print_table(header, (figures(title, verdict) for title, verdict in found.items()))
    for title, verdict in found.items():
        for fit, loss in verdict["missed"].items():
            print(f"* {title}: {fit} {'failed' if loss is None else f'lost {loss:.4f}'}")


if __name__ == "__main__":
    main()
