"""Table of the candidates of a selection: their criteria, the best candidate, and warnings about their order."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sklearn.exceptions import ConvergenceWarning

from ..criteria import CRITERIA, HELD_OUT, running_criteria
from ..errors import (
    CoincidingComponentsWarning,
    FallingLikelihoodWarning,
    InitializationWarning,
    InvalidWeightsError,
    SelectionWarning,
)
from ..fitting.comparison import NEGLIGIBLE, negligible_nats
from ..fitting.fit_spec import FailedFit, FitResult
from ..fitting.folds import Score, SplitScore
from .base import BaseMixture
from .grid import Key, label


def coincidences(run: FitResult[Any] | FailedFit) -> list[Warning]:
    """Warnings of coinciding components."""
    return [note for note in run.notes if isinstance(note, CoincidingComponentsWarning)]


def table_row(
    key: Key, model: BaseMixture[Any], run: FitResult[Any] | FailedFit, score: SplitScore | None
) -> dict[str, Any]:
    """Make the row of a candidate; without a score, it has no criteria."""
    criteria: Mapping[str, float] = {}
    training = held_out = None
    if score is not None:
        criteria, training = model._criteria(score.training), score.training.mean_log_likelihood
        held_out = _mean(score.held_out)
    return {
        "n_components": key[0],
        "covariance_type": key[1],
        "log_likelihood": training,
        **{name: criteria.get(name) for name in CRITERIA},
        HELD_OUT: held_out,
        "n_parameters": model._parameters().n_free if criteria else None,
        "converged": isinstance(run, FitResult) and run.converged,
        "n_iter": run.n_iter if isinstance(run, FitResult) else None,
        "undecided": False,
        "coincides": bool(coincidences(run)),
        "dropped": isinstance(run, FitResult) and run.stopped,
        "failed": str(run.error) if isinstance(run, FailedFit) else None,
    }


def _mean(score: Score) -> float | None:
    return score.mean_log_likelihood if score.weight_sum > 0 else None


def mark_undecided(
    table: Sequence[dict[str, Any]],
    criterion: str,
    left: Mapping[Key, float],
    scores: Mapping[Key, SplitScore],
) -> None:
    """Mark the candidates that would be the best with what their fits have left to gain."""
    scored = [row for row in table if row[criterion] is not None]
    for row in scored:
        key = _key(row)
        gain = left[key] if criterion == HELD_OUT else 2 * left[key] * scores[key].training.weight_sum
        negligible = negligible_nats(scores[key].training.weight_sum) if criterion == HELD_OUT else NEGLIGIBLE
        others = [_cost(criterion, other) for other in scored if other is not row]
        cost = _cost(criterion, row)
        is_behind = bool(others) and cost > min(others)
        row["undecided"] = is_behind and not row["dropped"] and cost - gain < min(others) - negligible


def _cost(criterion: str, row: Mapping[str, Any]) -> float:
    """Value of the criterion, of which less is better."""
    return float(-row[criterion] if criterion == HELD_OUT else row[criterion])


def warn_of_runs(runs: Mapping[Key, FitResult[Any] | FailedFit]) -> None:
    """Warn of failures, missing convergence and notes of the fits; raise the first failure if all fits failed."""
    failures = {key: run.error for key, run in runs.items() if isinstance(run, FailedFit)}
    if len(failures) == len(runs):
        raise next(iter(failures.values()))
    for run in runs.values():
        for note in run.notes:
            if note not in coincidences(run):  # the table has them
                warnings.warn(note, stacklevel=5)
    for key, error in failures.items():
        warnings.warn(InitializationWarning(f"the candidate {label(key)} failed: {error}"), stacklevel=5)
    late = [label(key) for key, run in runs.items() if _is_late(run)]
    if late:
        warnings.warn(
            f"{len(late)} of {len(runs)} candidates did not converge: {', '.join(late)}. Increase max_iter, or tol.",
            ConvergenceWarning,
            stacklevel=5,
        )


def _is_late(run: FitResult[Any] | FailedFit) -> bool:
    return isinstance(run, FitResult) and not (run.converged or run.stopped) and run.n_iter > 0


def warn_of_order(table: Sequence[Mapping[str, Any]], criterion: str) -> None:
    """Warn if it could not be told which candidate is the best."""
    undecided = [label(_key(row)) for row in table if row["undecided"] and row["converged"]]
    if undecided and criterion in running_criteria():
        warnings.warn(
            SelectionWarning(
                f"{len(undecided)} candidates may still be better by {criterion} than the one that was selected: "
                f"{', '.join(undecided[:8])}{', …' if len(undecided) > 8 else ''}. Their fits have more to gain than "
                "their criteria lack. Decrease tol and increase max_iter to tell their order."
            ),
            stacklevel=5,
        )


def warn_of_falls(table: Sequence[Mapping[str, Any]], significant: float) -> None:
    """Warn if a mixture with more components has a lower likelihood: its fit has missed the maximum."""
    falls = [
        f"{label(_key(lower))} has {lower['log_likelihood']:.6g} nats per row, {label(_key(higher))} "
        f"{higher['log_likelihood']:.6g}"
        for higher, lower in _falls(table, significant)
    ]
    if falls:
        more = f" (and {len(falls) - 4} more)" if len(falls) > 4 else ""
        warnings.warn(
            FallingLikelihoodWarning(
                f"the log-likelihood falls with the number of components: {'; '.join(falls[:4])}{more}. A mixture with "
                "more components describes the data at least as well if its fit finds the maximum, so these fits did "
                "not, although they also began with the smaller mixture, split. The criteria may select too few "
                "components. Decrease tol, increase max_iter, or try another random_state of the estimator."
            ),
            stacklevel=5,
        )


def _falls(
    table: Sequence[Mapping[str, Any]], significant: float
) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Pairs of candidates of one covariance type, of which the second has more components and a lower likelihood.

    Candidates that have not converged are left out as the second: another warning names them.
    """
    scored = sorted((row for row in table if row["log_likelihood"] is not None), key=_key)
    highest: dict[str, Mapping[str, Any]] = {}
    for row in scored:
        best = highest.setdefault(row["covariance_type"], row)
        if row["log_likelihood"] > best["log_likelihood"]:
            highest[row["covariance_type"]] = row
        elif row["converged"] and row["log_likelihood"] < best["log_likelihood"] - significant:
            yield best, row


def _key(row: Mapping[str, Any]) -> Key:
    return row["n_components"], row["covariance_type"]


def best_key(criterion: str, table: Sequence[Mapping[str, Any]]) -> Key:
    """Key of the best candidate; of equal candidates, the one with fewer parameters."""
    scored = [row for row in table if row[criterion] is not None]
    if not scored:
        raise InvalidWeightsError("held_out: all held-out rows have weight zero; increase held_out")
    best = min(scored, key=lambda row: (_cost(criterion, row), row["n_parameters"] or 0, row["n_components"]))
    return _key(best)
