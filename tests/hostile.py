"""What the tests of hostile input share: rows, a store to tamper with, and an error that came promptly and cheaply."""

import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from tracing import traced

from daskgmm import GaussianMixture

N, D = 60, 3
X = np.random.RandomState(0).normal(size=(N, D)) + np.repeat([[0], [5]], N // 2, axis=0)

# A LinAlgError is a ValueError, and unchecked input runs into KeyError and IndexError: none of them is an answer.
NO_ANSWER = (np.linalg.LinAlgError, LookupError, AttributeError, AssertionError, RecursionError)

#: What a refusal may allocate. Far above what it takes, far below what was asked for.
MOST_BYTES = 60_000_000


def fit(x=X, sample_weight=None, **parameters):
    parameters = {"n_components": 2, "random_state": 0, "max_iter": 2} | parameters
    return GaussianMixture(**parameters).fit(x, sample_weight=sample_weight)


def refuse(error, message, function, *arguments, **named):
    """The error that a call ends in: of that type, with that message, and without a large allocation."""
    with traced() as peak, pytest.raises(error, match=message) as caught:
        function(*arguments, **named)
    assert not isinstance(caught.value, NO_ANSWER)
    assert peak.n_bytes < MOST_BYTES, f"{peak.n_bytes} bytes for a refusal"
    assert len(str(caught.value)) < 4000
    return caught.value


def good_store(folder, name="x.zarr", **layout):
    path = Path(folder) / name
    layout = {"shape": X.shape, "dtype": X.dtype, "chunks": (20, D)} | layout
    zarr.create_array(path, **layout)[...] = X
    return path


def edit_json(path, change, document="zarr.json"):
    """Change a document of metadata; what ``change`` returns takes its place, if it returns anything."""
    file = Path(path) / document
    content = json.loads(file.read_text())
    changed = change(content)
    file.write_text(json.dumps(content if changed is None else changed))
    return Path(path)
