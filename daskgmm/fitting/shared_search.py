"""One search for the starts of several mixtures of one covariance structure."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from typing import Any

from ..engine.interface import Engine
from ..errors import IllDefinedCovarianceError
from .sample_starts import StartContext
from .searched_starts import Announcer, new_search
from .start_search import Found, StartSearch

Outcome = Found | IllDefinedCovarianceError
"""Outcome of a mixture's search; the error if the search has failed."""


def search_together(engine: Engine, contexts: Mapping[int, StartContext[Any]]) -> dict[int, Outcome]:
    """Search for the starts of several mixtures of one covariance structure: one over-fit serves all of them.

    The largest mixture has a whole search. Each smaller one begins with the next larger one, merged, and a mixture that
    describes the held-out rows worse than the next smaller one begins again with that one, split. The search of a
    mixture fails if its first rows leave it without positive definite covariances; the whole search is that of the
    largest mixture without a failure.

    Parameters
    ----------
    engine : Engine
        Engine of the whole fit.
    contexts : mapping
        Number of components -> context of the mixture.

    Returns
    -------
    dict of int to Outcome
    """
    begin = time.perf_counter()
    announcers = {k: Announcer(context) for k, context in contexts.items()}
    with engine.in_memory() as local:
        searches: dict[int, StartSearch] = {}
        found: dict[int, Found] = {}
        failed: dict[int, Outcome] = {}
        for k in sorted(contexts, reverse=True):
            try:
                if not found:
                    whole = new_search(contexts[k], local)
                    searches[k], found[k] = whole, whole.run(announcers[k])
                else:
                    searches[k] = whole.smaller(k)
                    found[k] = searches[k].run_from(found[min(found)].parameters, announcers[k])
            except IllDefinedCovarianceError as error:
                # Without the traceback: its frames would keep the data alive until Python's garbage collector runs.
                failed[k] = IllDefinedCovarianceError(error.components)
        for fewer, more in pairwise(sorted(found)):
            if found[more].log_likelihood < found[fewer].log_likelihood:
                with suppress(IllDefinedCovarianceError):  # a mixture that failed is no better
                    other = searches[more].run_from(found[fewer].parameters, announcers[more])
                    best = max(found[more], other, key=lambda each: each.log_likelihood)
                    found[more] = replace(best, n_iter=other.n_iter)
    seconds = time.perf_counter() - begin
    return failed | {k: replace(each, seconds=seconds) for k, each in found.items()}
