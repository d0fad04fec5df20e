"""A kind of input that the package does not know: labelled grids, registered from outside. See CONTRIBUTING.md."""

from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr

from daskgmm import GaussianMixture, select, write_predictions
from daskgmm.data.input_kinds import InputKind, register, unregister


@dataclass(frozen=True)
class Grid:
    """Values on named axes, with names of the variables on the last one."""

    values: Any
    axes: tuple[str, ...]
    variables: tuple[str, ...] = ()


class Grids(InputKind):
    """Cells are rows; results are grids with the same axes."""

    def recognises(self, data, name):
        return isinstance(data, Grid)

    def rows(self, data, name):
        if name == "sample_weight":
            return data.values.reshape(-1)
        return data.values.reshape(-1, data.values.shape[-1])

    def feature_names(self, data):
        return data.variables or None

    def wrap(self, data, result, output):
        axes = data.axes[:-1] if output.n_columns is None else (*data.axes[:-1], "component")
        return Grid(result.reshape(*data.values.shape[:-1], *result.shape[1:]), axes)


@pytest.fixture(autouse=True)
def grids():
    kind = Grids()
    register(kind)
    yield
    unregister(kind)


CELLS = np.concatenate([np.random.default_rng(0).normal(c, 1.0, (10, 40, 2)) for c in (-4.0, 4.0)])
ROWS = CELLS.reshape(-1, 2)


def grid(values=CELLS, variables=("temperature", "salinity")):
    return Grid(values, ("y", "x", "variable"), variables)


def fit(data, **more):
    return GaussianMixture(2, random_state=0).fit(data, **more)


@pytest.mark.parametrize("values", [CELLS, da.from_array(CELLS, chunks=(7, 40, 2))], ids=["in memory", "lazy"])
def test_grids_in_and_grids_out(values):
    model, expected = fit(grid(values)), fit(ROWS)
    np.testing.assert_array_equal(model.means_, expected.means_)
    assert list(model.feature_names_in_) == ["temperature", "salinity"]
    labels = model.predict(grid(values))
    assert (type(labels), labels.axes, type(labels.values)) == (Grid, ("y", "x"), type(values))
    np.testing.assert_array_equal(np.asarray(labels.values), expected.predict(ROWS).reshape(20, 40))
    probabilities = model.predict_proba(grid(values))
    assert probabilities.axes == ("y", "x", "component")
    np.testing.assert_allclose(
        np.asarray(probabilities.values), expected.predict_proba(ROWS).reshape(20, 40, 2), rtol=1e-12
    )
    assert model.score_samples(grid(values)).values.shape == (20, 40)
    assert model.score(grid(values)) == expected.score(ROWS)
    assert fit(grid(values)).fit_predict(grid(values)).axes == ("y", "x")


def test_weights_may_be_of_the_kind_too():
    weights = np.random.default_rng(1).uniform(size=(20, 40))
    model = fit(grid(), sample_weight=Grid(weights, ("y", "x")))
    np.testing.assert_array_equal(model.means_, fit(ROWS, sample_weight=weights.ravel()).means_)


def test_names_of_variables_are_held_against_those_of_the_fit():
    with pytest.raises(ValueError, match="was fitted with the features"):
        fit(grid()).predict(grid(variables=("salinity", "temperature")))


def test_results_are_written_row_by_row(tmp_path):
    model = fit(ROWS)
    assert write_predictions(model, grid(variables=()), tmp_path / "out.zarr") == {"labels": (800,)}
    np.testing.assert_array_equal(zarr.open_group(tmp_path / "out.zarr", mode="r")["labels"][:], model.predict(ROWS))
    estimator = GaussianMixture(random_state=0)
    assert select(grid(), [1, 2], estimator=estimator).best == select(ROWS, [1, 2], estimator=estimator).best


def test_a_kind_may_lead_to_another(tmp_path):
    """To a path, for example, whose rows then are those of a Zarr array."""

    class Named(InputKind):
        def recognises(self, data, name):
            return data == "the rows"

        def rows(self, data, name):
            return tmp_path / "x.zarr"

        def wrap(self, data, result, output):
            return data, output.name, result

    zarr.create_array(tmp_path / "x.zarr", data=ROWS, chunks=(100, 2))
    named = Named()
    register(named)
    try:
        model = fit("the rows")
        data, name, labels = model.predict("the rows")
    finally:
        unregister(named)
    assert (data, name, labels.chunks[0][0]) == ("the rows", "labels", 100)
    np.testing.assert_array_equal(labels.compute(), fit(ROWS).predict(ROWS))
