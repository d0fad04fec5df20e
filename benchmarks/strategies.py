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
from collections.abc import Iterable, Iterator
from itertools import permutations
from pathlib import Path
from statistics import fmean, median
from typing import Any

from data_sets import DATA_SETS
from machine import describe_machine
from settings import SCIKIT_LEARN, STRATEGIES
from trials import Trial, available, choosing, complete, number, print_missing, print_table

Record = dict[str, Any]

BEST_OF = 4  # seeds of the reference


def trials(options: argparse.Namespace) -> Iterator[Trial]:
    """By data set, so that its rows are drawn once."""
    for data in options.data:
        for seed in range(options.seeds):
            for strategy in options.strategies:
                for tol in options.tols:
                    yield Trial(data, strategy, seed, tol, options.max_iter)


# ---- the table


def pairs(records: Iterable[Record], reference: str) -> Iterator[tuple[str, Record, Record]]:
    """Strategy, its fit, and the reference's of the same rows, seed and tol; the reference beside its other seeds, too.

    That is what no strategy with a start of its own can be expected to exceed. The reference's record has the ``best``
    log-likelihood of its first `BEST_OF` seeds.
    """
    cases: dict[str, dict[str, Record]] = {}
    seeds_of: dict[str, dict[int, Record]] = {}
    for record in records:
        name, n_rows, max_iter, strategy, seed, tol = record["key"]
        case = json.dumps([name, n_rows, max_iter, tol])
        if strategy != reference:
            cases.setdefault(case, {})[json.dumps([strategy, seed])] = record
        elif "error" not in record:
            seeds_of.setdefault(case, {})[seed] = record
    for case, of_seeds in seeds_of.items():
        best = max(record["log_likelihood"] for record in list(map(of_seeds.get, sorted(of_seeds)))[:BEST_OF])
        of_it = {seed: record | {"best": best} for seed, record in of_seeds.items()}
        for record in cases.get(case, {}).values():
            strategy, seed = record["key"][3:5]
            if seed in of_it:
                yield strategy, record, of_it[seed]
        yield from ((f"{reference}, other seed", record, other) for other, record in permutations(of_it.values(), 2))


def judge(compared: list[tuple[Record, Record]]) -> Record:
    """Figures of one strategy's fits beside the reference's; a fit that failed is neither good nor short."""

    def ratios(name: str) -> list[float]:
        return [math.inf if "error" in record else record[name] / of_it[name] for record, of_it in compared]

    def gains_over(name: str) -> list[float]:
        return [(record.get("log_likelihood", -math.inf) - of_it[name]) / of_it["tol"] for record, of_it in compared]

    gains = gains_over("log_likelihood")
    leads = [record["lead"] for record, _ in compared if record.get("lead") is not None]
    return {
        "runs": len(compared),
        "as_good": fmean(gain >= -1 for gain in gains),
        "as_good_as_best": fmean(gain >= -1 for gain in gains_over("best")),
        "better": fmean(gain > 1 for gain in gains),
        "passes": median(ratios("passes")),
        "mean_passes": math.exp(fmean(map(math.log, ratios("passes")))),
        "processor_time": median(ratios("processor_seconds")),
        "lead": median(leads) if leads else None,
    }


def verdicts(records: Iterable[Record], reference: str) -> dict[str, Record]:
    """By strategy, and by strategy and tol."""
    groups: dict[str, list[tuple[Record, Record]]] = {}
    for strategy, record, of_it in pairs(records, reference):
        for title in (strategy, f"{strategy}, tol {record['tol']:g}"):
            groups.setdefault(title, []).append((record, of_it))
    return {title: judge(compared) for title, compared in sorted(groups.items())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, metavar="FILE.jsonl", required=True)
    parser.add_argument(
        "--data", nargs="+", type=choosing(DATA_SETS), metavar="NAME", default=[list(DATA_SETS.values())],
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
    options.data, missing = available(options.data, options.rows)
    found = verdicts(complete(options.output, trials(options)), options.reference)
    if options.json:
        print(json.dumps({"machine": describe_machine(), "missing": missing, "verdicts": found}))
        return
    print_missing(missing)
    print(f"beside {options.reference}; passes and processor time are medians over its own\n")
    header = ["strategy", "runs", "as good", f"as the best of {BEST_OF}", "better"]
    header += ["passes", "their mean", "processor time", "lead"]
    shares, measures = ("as_good", "as_good_as_best", "better"), ("passes", "mean_passes", "processor_time", "lead")
    print_table(
        header,
        (
            [title, str(v["runs"]), *(f"{v[of]:.1%}" for of in shares), *(number(v[of]) for of in measures)]
            for title, v in found.items()
        ),
    )


if __name__ == "__main__":
    main()
