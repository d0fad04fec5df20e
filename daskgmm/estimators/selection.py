"""`select`: several mixtures of the same data, compared; all of them share every reading of the data."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from ..core.covariance import STRUCTURES
from ..criteria import CRITERIA, HELD_OUT
from ..data.dataset import Dataset
from ..data.failures import short_errors
from ..data.held_out import HeldOut
from ..data.inputs import as_dataset, is_lazy
from ..data.row_checks import check_weight_sum
from ..diagnostics.selection_view import draw_criterion, new_axes, selection_html, selection_text
from ..diagnostics.verbose import VerboseListener
from ..engine.events import Listener
from ..engine.run import DaskEngine
from ..errors import FallingLikelihoodWarning, InitializationWarning, InvalidWeightsError
from ..fitting.first_pass import n_weight_passes
from ..fitting.fit import fit_mixtures
from ..fitting.fit_spec import FailedFit, FitResult
from ..fitting.fit_state import Checkpointer
from ..fitting.folds import Score, SplitScore, SplitScoreFold
from ..fitting.plan import check_parameters
from ..fitting.pruning import PruningRule
from ..persistence.checkpoint import Checkpoint
from .base import BaseMixture
from .checkpointing import check_checkpoint, checkpointer_for
from .grid import Key, check_criterion, check_estimator, check_keys, check_rows
from .validation import check_callbacks

# Times tol, in nats per row: fits end when a step gains less than tol, a few of these short of their maximum.
_SIGNIFICANT_FALL = 10


@dataclass(frozen=True)
class Selection:
    """Result of `select`. ``print`` it for a table; a notebook shows one by itself.

    Attributes
    ----------
    criterion : str
    table : list of dict
        One for each candidate, in the order in which they were asked for; ``pandas.DataFrame(selection.table)`` makes a
        frame of it::

            n_components, covariance_type
            log_likelihood   mean over the rows that were fitted, in nats
            bic, aic, icl    of the same rows; None for a Bayesian mixture, which has none
            held_out         mean log-likelihood of the rows that were held out; None where none were
            n_parameters     free parameters; None for a Bayesian mixture
            converged, n_iter
            dropped          it was given up because it could no longer win (``patience``)
            failed           why there is no such mixture; None where there is one

    models : dict
        Fitted mixtures by number of components and covariance type; those that failed are missing.
    best : tuple of int and str
        Key of the best one.
    model : GaussianMixture or BayesianGaussianMixture
        The best one.
    n_rows : int
        All rows, those that were held out included.
    n_passes : int
        How often the data were read for all of this.
    """

    criterion: str
    table: list[dict[str, Any]]
    models: dict[Key, BaseMixture[Any]]
    best: Key
    n_rows: int
    n_passes: int

    @property
    def model(self) -> Any:
        """The best one."""
        return self.models[self.best]

    def as_record(self) -> dict[str, Any]:
        """The selection, without the models, as what JSON can say."""
        return {
            "kind": "selection",
            "criterion": self.criterion,
            "best": {"n_components": self.best[0], "covariance_type": self.best[1]},
            "n_rows": self.n_rows,
            "n_passes": self.n_passes,
            "candidates": [dict(row) for row in self.table],
        }

    def plot(self, ax: Any = None) -> Any:
        """How much worse than the best each candidate is, against its number of components.

        There is one line for each covariance type, and the vertical axis is logarithmic above differences that hardly
        count: 10 for the information criteria, 0.001 nats per row for rows held out.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            None: one of a new figure.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        MissingDependencyError
            Where matplotlib is not installed.
        """
        return draw_criterion(self.as_record(), new_axes() if ax is None else ax)

    def __str__(self) -> str:
        return selection_text(self.as_record())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return selection_html(self.as_record())


@short_errors
def select(
    X: Any,
    n_components: int | Iterable[int] = range(1, 21),
    covariance_types: str | Iterable[str] = ("full",),
    criterion: str = "bic",
    *,
    estimator: BaseMixture[Any] | None = None,
    sample_weight: Any = None,
    held_out: float | None = None,
    patience: int | None = None,
    scheduler: Any = None,
    callbacks: Iterable[Listener] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
) -> Selection:
    """Fit mixtures with several numbers of components and covariance types, and tell which describes the data best.

    All candidates that are still running share every reading of the data, and one pass at the end gives all criteria
    of all of them: as many passes as the candidate that takes the most, fitted and scored by itself. Each becomes what
    it becomes alone, to the last bit. Where the workers' memory does not hold all of them at a time, there are more
    passes.

    Parameters
    ----------
    X : array-like of shape (n, D)
        As for `GaussianMixture.fit`.
    n_components : int or iterable of int, default=range(1, 21)
    covariance_types : str or iterable of str, default=('full',)
        Values of ``covariance_type``: 'full', 'tied', 'diag', 'spherical', 'tied-diag', 'tied-spherical'.
    criterion : {'bic', 'aic', 'icl', 'held_out'}, default='bic'
        What decides:

        'bic'
            Bayesian information criterion (Schwarz 1978), which finds the number of components where there is one.
        'aic'
            Akaike's information criterion (Akaike 1974): larger mixtures, which describe the density better.
        'icl'
            Integrated completed likelihood (Biernacki, Celeux & Govaert 2000): as 'bic', but for components that hardly
            overlap, for clusters.
        'held_out'
            Log-likelihood of rows that no fit has seen, whose largest value is the best. The only one for a
            `BayesianGaussianMixture`, which has no number of free parameters.

        Equal ones are decided for fewer parameters.
    estimator : GaussianMixture or BayesianGaussianMixture, optional
        Unfitted. Its other parameters (``tol``, ``n_init``, ``init_size``, ``random_state``, …) are those of every
        candidate. Where its ``random_state`` is no int, one is drawn, so that all candidates have the same.
    sample_weight : array-like of shape (n,), optional
        A row of weight 2 counts as two equal rows, in the criteria, too.
    held_out : float, optional
        Share of the rows, between 0 and 1, that is held out of all fits, surveys and starts included. Which rows
        follows from their numbers and ``random_state``. The same passes read and score them. None: 0.1 with
        ``criterion='held_out'``, else no row. Rows that resemble their neighbours (pixels, time series) are not
        independent of those that were fitted, and make large mixtures look better than they are.
    patience : int, optional
        Give a candidate up when, in so many iterations running, its criterion could not become the lowest even if its
        likelihood rose twice as far as its last gains promise (Aitken's extrapolation). A heuristic: a candidate that
        rests on a plateau may be given up, too. It stays in the table as it was then. For 'bic' and 'aic'. None: all
        candidates run to their ends.
    scheduler, callbacks
        As in `GaussianMixture`; those of ``estimator`` where they are not given.
    checkpoint, resume
        As for `GaussianMixture.fit`: one checkpoint for all candidates.

    Returns
    -------
    Selection

    Raises
    ------
    ValueError
        For candidates or a criterion that make no sense, naming the parameter, and whatever `GaussianMixture.fit`
        raises of the data.
    IllDefinedCovarianceError
        If every candidate failed. One that fails beside others is in the table, and a warning names it.

    Examples
    --------
    >>> import dask.array as da
    >>> from daskgmm import select
    >>> x = da.concatenate([da.random.default_rng(0).normal(size=(10_000, 2)) + shift for shift in (0, 8)])
    >>> found = select(x, range(1, 5), ("full", "spherical"))
    >>> found.best
    (2, 'spherical')
    """
    base = check_estimator(estimator)
    keys = check_keys(n_components, covariance_types)
    share = check_criterion(base, criterion, held_out, patience)
    with check_checkpoint(checkpoint, resume) as stored_fit:
        base = _settled(base, scheduler, None if stored_fit is None else stored_fit.setting("random_state"))
        asked = _Asked(keys, criterion, share, patience, stored_fit)
        return _select(X, base, asked, sample_weight, callbacks)


@dataclass(frozen=True)
class _Asked:
    """What `select` was asked for, checked."""

    keys: Sequence[Key]
    criterion: str
    share: float | None
    """Of the rows that are held out."""
    patience: int | None
    stored_fit: Checkpoint | None

    @property
    def settings(self) -> dict[str, Any]:
        """What the results depend on besides the estimators, for a checkpoint."""
        return {
            "function": "select",
            "criterion": self.criterion,
            "held_out": self.share,
            "patience": self.patience,
        }


def _select(
    X: Any, base: BaseMixture[Any], asked: _Asked, sample_weight: Any, callbacks: Iterable[Listener]
) -> Selection:
    keys, criterion, share, patience = asked.keys, asked.criterion, asked.share, asked.patience
    models = {key: clone(base).set_params(n_components=key[0], covariance_type=key[1]) for key in keys}
    for model in models.values():
        model._check_settings()
    first = models[keys[0]]
    data = first._accept(X, reset=True)
    _copy_features(first, models.values())
    rule = None if share is None else HeldOut(share, base.random_state)
    listeners = [*_printing(base), *check_callbacks(callbacks or base.callbacks)]
    with DaskEngine(base.scheduler, in_process=not is_lazy(data), listeners=listeners) as engine:
        dataset, counting = as_dataset(data, sample_weight, engine.compute)
        check_rows(dataset, keys, rule)
        for n_components, kind in keys:
            check_parameters(dataset, STRUCTURES[kind], n_components)
        training = dataset if rule is None else rule.training(dataset)
        checkpointer = None
        if asked.stored_fit is not None:
            checkpointer = checkpointer_for(asked.stored_fit, training, list(models.values()), asked.settings)
        runs = _fit(
            engine, training, models, None if patience is None else PruningRule(criterion, patience), checkpointer
        )
        for key, run in runs.items():
            if isinstance(run, FitResult):
                _store(models[key], run, dataset, training, counting)
        fitted = {key: models[key] for key, run in runs.items() if isinstance(run, FitResult)}
        _tell(runs)
        scores = _score(engine, dataset, fitted, rule)
        n_passes = counting + engine.n_passes
    table = [_row(key, models[key], run, scores.get(key)) for key, run in runs.items()]
    _tell_falls(table, base)
    return Selection(criterion, table, fitted, _best(criterion, table), dataset.n_rows, n_passes)


# ---- what is done


def _settled(base: BaseMixture[Any], scheduler: Any, drawn: Any) -> BaseMixture[Any]:
    """A copy whose random state is an int, which all candidates then share; one that was drawn before, if there is."""
    base = clone(base)
    if scheduler is not None:
        base.set_params(scheduler=scheduler)
    base._check_settings()
    if not isinstance(base.random_state, Integral):
        random_state = check_random_state(base.random_state)
        base.random_state = drawn if isinstance(drawn, int) else int(random_state.randint(np.iinfo(np.int32).max))
    return base


def _printing(base: BaseMixture[Any]) -> list[Listener]:
    return [VerboseListener(base.verbose, base.verbose_interval)] if base.verbose else []


def _copy_features(first: BaseMixture[Any], models: Iterable[BaseMixture[Any]]) -> None:
    """What `_accept` has told of the features."""
    told = {name: value for name, value in vars(first).items() if name in ("n_features_in_", "feature_names_in_")}
    for model in models:
        vars(model).update(told)


def _label(key: Key) -> str:
    return f"{key[0]} {key[1]}"


def _fit(
    engine: DaskEngine,
    dataset: Dataset,
    models: Mapping[Key, BaseMixture[Any]],
    early_stop: PruningRule | None,
    checkpointer: Checkpointer | None,
) -> dict[Key, FitResult[Any] | FailedFit]:
    specs = [model._spec(dataset.n_features, _label(key)) for key, model in models.items()]
    return dict(zip(models, fit_mixtures(engine, dataset, specs, checkpointer, early_stop), strict=True))


def _store(model: BaseMixture[Any], run: FitResult[Any], dataset: Dataset, training: Dataset, counting: int) -> None:
    # As it would be alone: its own starts share passes, too.
    steps = Counter(record.start for record in run.history if record.kind not in ("survey", "sample"))
    size = model._settings(model._prepare(dataset.n_features)).sample_size
    n_passes = counting + n_weight_passes(training, size) + 1 + max(steps.values(), default=0)
    model._store(run, dataset, n_passes)


def _tell(runs: Mapping[Key, FitResult[Any] | FailedFit]) -> None:
    """Warn of what happened; raise if there is no mixture at all."""
    failures = {key: run.error for key, run in runs.items() if isinstance(run, FailedFit)}
    if len(failures) == len(runs):
        raise next(iter(failures.values()))
    for run in runs.values():
        for note in run.notes:
            warnings.warn(note, stacklevel=5)
    for key, error in failures.items():
        warnings.warn(InitializationWarning(f"the candidate {_label(key)} failed: {error}"), stacklevel=5)
    late = [_label(key) for key, run in runs.items() if _is_late(run)]
    if late:
        warnings.warn(
            f"{len(late)} of {len(runs)} candidates did not converge: {', '.join(late)}. Increase max_iter, or tol.",
            ConvergenceWarning,
            stacklevel=5,
        )


def _is_late(run: FitResult[Any] | FailedFit) -> bool:
    return isinstance(run, FitResult) and not (run.converged or run.stopped) and run.n_iter > 0


def _score(
    engine: DaskEngine, dataset: Dataset, fitted: Mapping[Key, BaseMixture[Any]], rule: HeldOut | None
) -> dict[Key, SplitScore]:
    """Scores of all mixtures, in one pass."""
    folds = [SplitScoreFold(model._kernel(dataset.rows), model._has_criteria, rule) for model in fitted.values()]
    scores: list[SplitScore] = engine.run_together(dataset, folds, "score")
    check_weight_sum(scores[0].training.weight_sum)
    return dict(zip(fitted, scores, strict=True))


# ---- what came of it


def _row(
    key: Key, model: BaseMixture[Any], run: FitResult[Any] | FailedFit, score: SplitScore | None
) -> dict[str, Any]:
    told: Mapping[str, float] = {}
    training = out = None
    if score is not None:
        told, training = model._criteria(score.training), score.training.mean_log_likelihood
        out = _mean(score.held_out)
    return {
        "n_components": key[0],
        "covariance_type": key[1],
        "log_likelihood": training,
        **{name: told.get(name) for name in CRITERIA},
        HELD_OUT: out,
        "n_parameters": model._parameters().n_free if told else None,
        "converged": isinstance(run, FitResult) and run.converged,
        "n_iter": run.n_iter if isinstance(run, FitResult) else None,
        "dropped": isinstance(run, FitResult) and run.stopped,
        "failed": str(run.error) if isinstance(run, FailedFit) else None,
    }


def _mean(score: Score) -> float | None:
    return score.mean_log_likelihood if score.weight_sum > 0 else None


def _tell_falls(table: Sequence[Mapping[str, Any]], base: BaseMixture[Any]) -> None:
    """Warn where a mixture with more components has a lower likelihood, which at its best it never has."""
    if not base._has_criteria:  # what a Bayesian fit maximises is not the likelihood
        return
    falls = [
        f"{_label(_key(lower))} has {lower['log_likelihood']:.6g} nats per row, {_label(_key(higher))} "
        f"{higher['log_likelihood']:.6g}"
        for higher, lower in _falls(table, _SIGNIFICANT_FALL * base.tol)
    ]
    if falls:
        more = f" (and {len(falls) - 4} more)" if len(falls) > 4 else ""
        warnings.warn(
            FallingLikelihoodWarning(
                f"the log-likelihood falls with the number of components: {'; '.join(falls[:4])}{more}. A mixture with "
                "more components describes the data at least as well where its fit finds the best place, so these have "
                "not, and the criteria may decide for too few components. Increase n_init or init_size of the "
                "estimator, try other init_params, or decrease tol."
            ),
            stacklevel=5,
        )


def _falls(
    table: Sequence[Mapping[str, Any]], significant: float
) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Candidates with a lower likelihood than one of the same covariance type with fewer components, and that one.

    Those that have not converged are known to be able to climb.
    """
    found = sorted((row for row in table if row["log_likelihood"] is not None), key=_key)
    highest: dict[str, Mapping[str, Any]] = {}
    for row in found:
        best = highest.setdefault(row["covariance_type"], row)
        if row["log_likelihood"] > best["log_likelihood"]:
            highest[row["covariance_type"]] = row
        elif row["converged"] and row["log_likelihood"] < best["log_likelihood"] - significant:
            yield best, row


def _key(row: Mapping[str, Any]) -> Key:
    return row["n_components"], row["covariance_type"]


def _best(criterion: str, table: Sequence[Mapping[str, Any]]) -> Key:
    """Key of the best one; of equals, the one with fewer parameters."""
    upwards = -1.0 if criterion == HELD_OUT else 1.0
    scored = [row for row in table if row[criterion] is not None]
    if not scored:
        raise InvalidWeightsError("held_out: all rows that were held out have weight zero; hold out more of them")
    best = min(scored, key=lambda row: (upwards * row[criterion], row["n_parameters"] or 0, row["n_components"]))
    return _key(best)
