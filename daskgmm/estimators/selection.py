"""`select`: a comparison of several mixtures of the same data, which share every reading of the data."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_random_state

from ..criteria import running_criteria
from ..data.dataset import Dataset
from ..data.dimensions import Layout
from ..data.failures import short_errors
from ..data.files import file_address, naming_files
from ..data.held_out import HeldOut
from ..data.inputs import as_dataset, is_lazy
from ..data.row_checks import check_weight_sum
from ..data.tables import split_weights
from ..diagnostics.selection_view import draw_criterion, new_axes, selection_html, selection_text
from ..diagnostics.verbose import VerboseListener
from ..engine.events import Listener
from ..engine.run import DaskEngine
from ..fitting.comparison import Comparison
from ..fitting.first_pass import n_weight_passes
from ..fitting.fit import fit_mixtures
from ..fitting.fit_spec import FailedFit, FitResult, Settings
from ..fitting.fit_state import Checkpointer
from ..fitting.folds import SplitScore, SplitScoreFold
from ..fitting.plan import cache_bytes, check_parameters
from ..fitting.pruning import PruningRule
from ..persistence.checkpoint import Checkpoint
from .accepted_data import accept_data
from .base import BaseMixture
from .checkpointing import check_checkpoint, checkpointer_for
from .grid import ONLY_FULL, Key, check_criterion, check_estimator, check_keys, check_rows, check_types, label
from .layouts import copy_features, fit_layout
from .selection_table import (
    best_key,
    coincidences,
    mark_undecided,
    table_row,
    warn_of_falls,
    warn_of_order,
    warn_of_runs,
)
from .validation import check_cache, check_callbacks


@dataclass(frozen=True)
class Selection:
    """Result of `select`: all candidates, their criteria, and the best mixture.

    ``print`` shows the selection as a table, and so does a notebook.

    Attributes
    ----------
    criterion : str
        Criterion that decided.
    table : list of dict
        One dict for each candidate, in the order of the request; ``pandas.DataFrame(selection.table)`` makes a data
        frame. The keys are::

            n_components, covariance_type
            log_likelihood   mean over the training rows, in nats
            bic, aic, icl    information criteria of the training rows; None for a Bayesian mixture
            held_out         mean log-likelihood of the held-out rows, in nats; None without held-out rows
            n_parameters     number of free parameters; None for a Bayesian mixture
            converged, n_iter
            undecided        True if the candidate may still be the best: its fit has more to gain, by what its last
                             gains predict, than its criterion lacks
            coincides        True if components coincide: fewer components describe the same mixture
            dropped          True if the fit was stopped early (``patience``)
            failed           error message of a failed fit; None for other fits

    models : dict
        Fitted mixtures by number of components and covariance type, without failed candidates.
    best : tuple of int and str
        Number of components and covariance type of the best mixture.
    model : GaussianMixture or BayesianGaussianMixture
        The best mixture.
    n_rows : int
        Number of all rows, held-out rows included.
    n_passes : int
        Number of passes over the data, for all candidates together.
    n_incomplete : int
        Number of rows that were left out because they are incomplete (``missing='drop'``).
    """

    criterion: str
    table: list[dict[str, Any]]
    models: dict[Key, BaseMixture[Any]]
    best: Key
    n_rows: int
    n_passes: int
    n_incomplete: int = 0

    @property
    def model(self) -> Any:
        """The best mixture."""
        return self.models[self.best]

    def as_record(self) -> dict[str, Any]:
        """Return the selection, without the models, as a dict of JSON values."""
        return {
            "kind": "selection",
            "criterion": self.criterion,
            "best": {"n_components": self.best[0], "covariance_type": self.best[1]},
            "n_rows": self.n_rows,
            "n_incomplete": self.n_incomplete,
            "n_passes": self.n_passes,
            "candidates": [dict(row) for row in self.table],
        }

    def plot(self, ax: Any = None) -> Any:
        """Plot the difference of each candidate's criterion from the best, against the number of components.

        The plot has one line for each covariance type. The vertical axis is linear for negligible differences, up to 10
        for the information criteria and 0.001 nats per row for held-out rows, and logarithmic above.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Axes to draw on. None: the axes of a new figure.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        MissingDependencyError
            If matplotlib is not installed.
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
    covariance_types: str | Iterable[str] = ONLY_FULL,
    criterion: str = "bic",
    *,
    estimator: BaseMixture[Any] | None = None,
    sample_weight: Any = None,
    dim: str | Sequence[str] | None = None,
    feature_axis: int | None = None,
    held_out: float | None = None,
    patience: int | None = None,
    cache: int | str | None = None,
    scheduler: Any = None,
    callbacks: Iterable[Listener] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    **parameters: Any,
) -> Selection:
    """Fit mixtures with several numbers of components and covariance types, and select the best.

    All running candidates share every reading of the data, and one pass at the end computes the criteria of all of
    them; there are more passes if the workers' memory does not hold all candidates at once. Where a fit begins with a
    search, one search serves all numbers of components of a covariance type. When all fits have ended, a candidate that
    describes the data worse than a smaller one begins again with the smaller mixture, split, and candidates whose BIC
    or AIC could still become the lowest go on with a smaller tolerance.

    Parameters
    ----------
    X : array-like of shape (n, D)
        Data, as for `GaussianMixture.fit`.
    n_components : int or iterable of int, default=range(1, 21)
        Numbers of components of the candidates.
    covariance_types : str or iterable of str, default=('full',)
        Covariance types of the candidates: 'full', 'tied', 'diag', 'spherical', 'tied-diag', 'tied-spherical'.
    criterion : {'bic', 'aic', 'icl', 'held_out'}, default='bic'
        Criterion of the selection; of equal candidates, the one with fewer parameters is the best:

        'bic'
            Bayesian information criterion (Schwarz 1978): finds the number of components, if the data are a mixture.
        'aic'
            Akaike's information criterion (Akaike 1974): prefers larger mixtures, which describe the density better.
        'icl'
            Integrated completed likelihood (Biernacki, Celeux & Govaert 2000): as 'bic', but prefers components that
            hardly overlap; for clustering.
        'held_out'
            Mean log-likelihood of held-out rows, which no fit has seen; larger is better. The only criterion for a
            `BayesianGaussianMixture`, which has no number of free parameters.
    estimator : GaussianMixture or BayesianGaussianMixture, optional
        Unfitted estimator, whose other parameters all candidates share. None: ``GaussianMixture(**parameters)``. If its
        ``random_state`` is no int, one int is drawn for all candidates.
    sample_weight : array-like of shape (n,) or str, optional
        Weights of the rows; a row of weight 2 counts as two equal rows, in fits and in criteria.
    dim, feature_axis
        Sample dimensions, or axis of the features, as for `GaussianMixture.fit`.
    held_out : float, optional
        Share of the rows, between 0 and 1, that is held out of all fits, including surveys and starts. The choice
        depends on the row numbers and ``random_state``; the scoring pass reads these rows together with the others.
        None: 0.1 with ``criterion='held_out'``, else no rows. Rows that resemble their neighbours (pixels, time series)
        are not independent of the training rows, and make large mixtures look better than they are.
    patience : int, optional
        Number of iterations in a row after which a hopeless candidate is stopped: even twice the gain that its last
        gains predict (Aitken's extrapolation) would not make its criterion the lowest. The rule is a heuristic: it may
        stop a candidate on a plateau, too. The table keeps the candidate as it was then. Only for 'bic' and 'aic'.
        None: all candidates run to their ends.
    cache, scheduler, callbacks
        Memory for rows that were read, scheduler and callbacks, as for `GaussianMixture`; by default those of
        ``estimator``. All candidates share one cache.
    checkpoint, resume
        Checkpoint and resumption, as for `GaussianMixture.fit`: one checkpoint for all candidates.
    **parameters
        Parameters of `GaussianMixture` that all candidates share, such as ``tol``, ``n_init``, ``init_size`` and
        ``random_state``, where there is no ``estimator``. ``covariance_type`` is another name of ``covariance_types``.

    Returns
    -------
    Selection

    Raises
    ------
    ValueError
        If the candidates or the criterion are invalid, naming the parameter, or for data that `GaussianMixture.fit`
        rejects.
    TypeError
        If a parameter is unknown, or belongs to a given ``estimator``.
    IllDefinedCovarianceError
        If every candidate failed. If only some candidates fail, they are in the table, and a warning names them.

    Examples
    --------
    >>> import dask.array as da
    >>> from daskgmm import select
    >>> x = da.concatenate([da.random.default_rng(0).normal(size=(10_000, 2)) + shift for shift in (0, 8)])
    >>> selection = select(x, range(1, 5), ("full", "spherical"))
    >>> selection.best
    (2, 'spherical')
    """
    types = check_types(covariance_types, parameters)
    base = check_estimator(estimator, parameters, select)
    keys = check_keys(n_components, types)
    share = check_criterion(base, criterion, held_out, patience)
    layout = fit_layout(dim, feature_axis, sample_weight)
    with naming_files(X), check_checkpoint(checkpoint, resume) as stored_fit:
        base = _seeded(base, cache, scheduler, None if stored_fit is None else stored_fit.setting("random_state"))
        options = _Options(keys, criterion, share, patience, stored_fit, layout)
        return _select(X, base, options, sample_weight, callbacks)


@dataclass(frozen=True)
class _Options:
    """Validated arguments of `select`."""

    keys: Sequence[Key]
    criterion: str
    share: float | None
    """Share of held-out rows."""
    patience: int | None
    stored_fit: Checkpoint | None
    layout: Layout
    """Dimensions of the data."""

    @property
    def settings(self) -> dict[str, Any]:
        """Settings, beside the estimators, on which the results depend, for a checkpoint."""
        return {
            "function": "select",
            "criterion": self.criterion,
            "held_out": self.share,
            "patience": self.patience,
        }


def _select(
    X: Any, base: BaseMixture[Any], options: _Options, sample_weight: Any, callbacks: Iterable[Listener]
) -> Selection:
    keys, criterion, share, patience = options.keys, options.criterion, options.share, options.patience
    models = {key: clone(base).set_params(n_components=key[0], covariance_type=key[1]) for key in keys}
    for model in models.values():
        model._check_settings()
    first = models[keys[0]]
    address = file_address(X)
    X, sample_weight = split_weights(X, sample_weight)
    accepted = accept_data(first, X, reset=True, layout=options.layout)
    weights = accepted.align(sample_weight, "sample_weight")
    copy_features(first, models.values())
    rule = None if share is None else HeldOut(share, base.random_state)
    listeners = [*_printing(base), *check_callbacks(callbacks or base.callbacks)]
    in_process = not is_lazy(accepted.rows)
    with accepted.naming_samples(), DaskEngine(base.scheduler, in_process=in_process, listeners=listeners) as engine:
        dataset, counting = as_dataset(accepted.rows, weights, engine.compute, accepted.missing)
        dataset = dataset.at(address or accepted.address)
        check_rows(dataset, keys, rule)
        training = dataset if rule is None else rule.training(dataset)
        check_parameters(training, [_settings(model, training.n_features) for model in models.values()])
        checkpointer = None
        if options.stored_fit is not None:
            checkpointer = checkpointer_for(options.stored_fit, training, list(models.values()), options.settings)
        early_stop = None if patience is None else PruningRule(criterion, patience)
        runs = _fit(engine, training, models, early_stop, _comparison(base, criterion), checkpointer)
        for key, run in runs.items():
            if isinstance(run, FitResult):
                _store(models[key], run, dataset, training, counting)
        fitted = {key: models[key] for key, run in runs.items() if isinstance(run, FitResult)}
        warn_of_runs(runs)
        scores = _score(engine, dataset, fitted, rule)
        n_passes = counting + engine.n_passes
    table = [table_row(key, models[key], run, scores.get(key)) for key, run in runs.items()]
    if base._has_criteria:  # a Bayesian fit does not maximise the likelihood
        mark_undecided(
            table, criterion, {key: run.gain_left for key, run in runs.items() if isinstance(run, FitResult)}, scores
        )
        warn_of_falls(table, base.tol)
        warn_of_order(table, criterion)
    best = best_key(criterion, table)
    for note in coincidences(runs[best]):
        warnings.warn(note, stacklevel=4)
    n_incomplete = next((run.n_incomplete for run in runs.values() if isinstance(run, FitResult)), 0)
    return Selection(criterion, table, fitted, best, dataset.n_rows, n_passes, n_incomplete)


# ---- fits and scores


def _seeded(base: BaseMixture[Any], cache: Any, scheduler: Any, drawn: Any) -> BaseMixture[Any]:
    """Copy the estimator, with an int as random state for all candidates: ``drawn`` by an earlier run, or a new one."""
    base = clone(base)
    given = {"cache": cache, "scheduler": scheduler}
    base.set_params(**{name: value for name, value in given.items() if value is not None})
    base._check_settings()
    if not isinstance(base.random_state, Integral):
        random_state = check_random_state(base.random_state)
        base.random_state = drawn if isinstance(drawn, int) else int(random_state.randint(np.iinfo(np.int32).max))
    return base


def _printing(base: BaseMixture[Any]) -> list[Listener]:
    return [VerboseListener(base.verbose, base.verbose_interval)] if base.verbose else []


def _fit(
    engine: DaskEngine,
    dataset: Dataset,
    models: Mapping[Key, BaseMixture[Any]],
    early_stop: PruningRule | None,
    comparison: Comparison | None,
    checkpointer: Checkpointer | None,
) -> dict[Key, FitResult[Any] | FailedFit]:
    specs = [model._spec(dataset.n_features, label(key)) for key, model in models.items()]
    cache = check_cache(next(iter(models.values())).cache)
    engine.keep_rows(cache_bytes(engine, dataset, [spec.settings for spec in specs], cache))
    return dict(zip(models, fit_mixtures(engine, dataset, specs, checkpointer, early_stop, comparison), strict=True))


def _settings(model: BaseMixture[Any], n_features: int) -> Settings:
    return model._settings(model._prepare(n_features))


def _comparison(base: BaseMixture[Any], criterion: str) -> Comparison | None:
    """Make the rule by which candidates go on; None for Bayesian fits, which do not maximise the likelihood."""
    return Comparison(criterion if criterion in running_criteria() else None) if base._has_criteria else None


def _store(model: BaseMixture[Any], run: FitResult[Any], dataset: Dataset, training: Dataset, counting: int) -> None:
    # Number of passes of a fit of this candidate alone, whose starts share passes, too.
    steps = Counter(record.start for record in run.history if record.kind not in ("survey", "sample"))
    size = _settings(model, dataset.n_features).sample_size
    n_passes = counting + n_weight_passes(training, size) + 1 + max(steps.values(), default=0)
    model._store(run, dataset, n_passes)


def _score(
    engine: DaskEngine, dataset: Dataset, fitted: Mapping[Key, BaseMixture[Any]], rule: HeldOut | None
) -> dict[Key, SplitScore]:
    """Compute the scores of all mixtures in one pass."""
    kind = dataset.row_kind
    folds = [
        SplitScoreFold(model._kernel(dataset.rows), model._has_criteria, rule, row_kind=kind)
        for model in fitted.values()
    ]
    scores: list[SplitScore] = engine.run_together(dataset, folds, "score")
    check_weight_sum(scores[0].training.weight_sum)
    return dict(zip(fitted, scores, strict=True))
