"""A covariance structure from outside the package, as CONTRIBUTING.md tells: one class, and everything else follows."""

import json
import sys
from importlib.metadata import EntryPoint

import numpy as np
import pytest
import zarr

import daskgmm
from daskgmm.cli import main
from daskgmm.core import covariance
from daskgmm.core.covariance import STRUCTURES

MODULE = '''
import numpy as np

from daskgmm.core.matrices import Diagonal


class Halves(Diagonal):
    """Diagonal matrices with one variance for the first half of the features, and one for the others."""

    def n_free(self, n_features):
        return 2

    def frame_scale(self, scale):
        return self.repeat(np.maximum.reduceat(scale, [0, len(scale) // 2]), len(scale))

    def from_moments(self, moments, n_features):
        halves = np.split(moments, [n_features // 2], axis=1)
        return self.repeat(np.stack([half.mean(axis=1) for half in halves], axis=1), n_features)

    @staticmethod
    def repeat(values, n_features):
        return np.repeat(values, [n_features // 2, n_features - n_features // 2], axis=-1)


HALVES = Halves("halves")
TIED_HALVES = Halves("tied-halves", shared=True)
'''
POINTS = "[daskgmm.structures]\nhalves = toy_halves:HALVES\ntied-halves = toy_halves:TIED_HALVES\n"
NAMES = ["halves", "tied-halves"]


@pytest.fixture(scope="module", autouse=True)
def _installed(tmp_path_factory):
    """A package of one file that is installed beside daskgmm."""
    folder = tmp_path_factory.mktemp("site-packages")
    (folder / "toy_halves.py").write_text(MODULE)
    about = folder / "toy_halves-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-halves\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(POINTS)
    sys.path.insert(0, str(folder))
    yield
    for name in NAMES:
        STRUCTURES.unregister(STRUCTURES[name])
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    shape = np.array([1.0, 1.0, 1.0, 5.0, 5.0])
    return rng.normal(size=(600, 5)) * shape + np.array([[0.0], [4.0], [-4.0]])[rng.integers(3, size=600)]


@pytest.mark.parametrize("name", NAMES)
def test_one_component_has_the_mean_variances_of_the_halves(name, rows):
    model = daskgmm.GaussianMixture(1, covariance_type=name, reg_covar=0).fit(rows)
    variances = rows.var(axis=0)
    expected = np.repeat([variances[:2].mean(), variances[2:].mean()], [2, 3])
    np.testing.assert_allclose(model.covariances_, expected if name == "tied-halves" else expected[None], rtol=1e-12)
    log_likelihood = model.score(rows) * len(rows)
    assert model.bic(rows) == pytest.approx(-2 * log_likelihood + (5 + 2) * np.log(len(rows)), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [daskgmm.GaussianMixture, daskgmm.BayesianGaussianMixture])
def test_fits_are_saved_and_come_back(name, kind, rows, tmp_path):
    model = kind(n_components=3, covariance_type=name, random_state=0, tol=1e-5, max_iter=500).fit(rows)
    assert (np.diff(model.lower_bounds_) > -1e-12).all()
    assert model.covariances_.shape == ((5,) if name == "tied-halves" else (3, 5))
    np.testing.assert_allclose(np.diff(model.covariances_)[..., [0, 2, 3]], 0, atol=1e-12)
    model.save(tmp_path / "model.zarr")
    again = daskgmm.load(tmp_path / "model.zarr")
    assert again.covariance_type == name
    np.testing.assert_array_equal(again.score_samples(rows), model.score_samples(rows))
    assert again.sample(10)[0].shape == (10, 5)


def test_select_compares_it_with_the_others(rows):
    found = daskgmm.select(
        rows, (1, 3), ("diag", "halves"), estimator=daskgmm.GaussianMixture(random_state=0, max_iter=300)
    )
    assert {row["covariance_type"]: row["n_parameters"] for row in found.table if row["n_components"] == 3} == {
        "diag": 2 + 15 + 15,
        "halves": 2 + 15 + 6,
    }


def test_the_terminal_finds_it_by_its_name(rows, tmp_path, capfd):
    zarr.save_array(tmp_path / "rows.zarr", rows)
    model = str(tmp_path / "model.zarr")
    fit = ["fit", str(tmp_path / "rows.zarr"), "-k", "3", "--random-state", "0", "--model", model]
    assert main([*fit, "--covariance-type", "halves"]) == 0, capfd.readouterr().err
    assert daskgmm.load(model).covariance_type == "halves"
    capfd.readouterr()
    assert main(["inspect", model, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["covariance_type"] == "halves"
    assert main([*fit, "--overwrite", "--covariance-type", "thirds"]) == 2
    assert "'thirds' is not one of" in capfd.readouterr().err


def test_two_structures_of_one_name_are_refused():
    with pytest.raises(ValueError, match="another covariance structure with the name 'full'"):
        STRUCTURES.register(type(STRUCTURES["halves"])("full"))
    STRUCTURES.register(STRUCTURES["halves"])  # the same one is nothing new


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("toy_halves:NOTHING", "cannot be imported"),
        ("no_such_module:X", "cannot be imported"),
        ("toy_halves:Halves", "expected a CovarianceStructure with the name 'other'"),
        ("toy_halves:HALVES", "expected a CovarianceStructure with the name 'other'"),
    ],
)
def test_entry_points_that_are_no_structure_are_named(value, message, monkeypatch):
    point = EntryPoint("other", value, covariance.ENTRY_POINTS)
    monkeypatch.setattr(covariance, "entry_points", lambda group, name: [point] if name == "other" else [])
    with pytest.raises(ValueError, match=f"entry point other = {value} .*{message}"):
        STRUCTURES["other"]
