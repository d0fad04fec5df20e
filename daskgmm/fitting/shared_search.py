"""One search for the starts of several mixtures of one covariance structure."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

from ..engine.interface import Engine
from .sample_starts import StartContext
from .searched_starts import Announcer, new_search
from .start_search import Found


def search_together(engine: Engine, contexts: Mapping[int, StartContext[Any]]) -> dict[int, Found]:
    """Search for the starts of several mixtures of one covariance structure: one over-fit serves all of them.

    The largest mixture has a whole search. Each smaller one begins with the next larger one, merged, and a mixture that
    describes the held-out rows worse than the next smaller one begins again with that one, split.

    Parameters
    ----------
    engine : Engine
        Engine of the whole fit.
    contexts : mapping
        Number of components -> context of the mixture.

    Returns
    -------
    dict of int to Found

    Raises
    ------
    IllDefinedCovarianceError
        If rows of a round left a mixture without positive definite covariances.
    """
    begin = time.perf_counter()
    ascending = sorted(contexts)
    announce = {k: Announcer(context) for k, context in contexts.items()}
    with engine.in_memory() as local:
        largest = new_search(contexts[ascending[-1]], local)
        found = {ascending[-1]: largest.run(announce[ascending[-1]])}
        searches = {ascending[-1]: largest}
        for more, fewer in pairwise(reversed(ascending)):
            searches[fewer] = largest.smaller(fewer)
            found[fewer] = searches[fewer].run_from(found[more].parameters, announce[fewer])
        for fewer, more in pairwise(ascending):
            if found[more].log_likelihood < found[fewer].log_likelihood:
                other = searches[more].run_from(found[fewer].parameters, announce[more])
                best = max(found[more], other, key=lambda each: each.log_likelihood)
                found[more] = replace(best, n_iter=other.n_iter)
    seconds = time.perf_counter() - begin
    return {k: replace(each, seconds=seconds) for k, each in found.items()}
