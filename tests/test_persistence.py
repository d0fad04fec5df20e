"""The model file: what comes back is what went in, and everything else is refused by name."""

import dataclasses
import io
import json
import os
import pickle
import shutil
from datetime import UTC, datetime

import dask.array as da
import fsspec
import numpy as np
import pytest
import zarr
from rich.console import Console
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import daskgmm
from daskgmm import BayesianGaussianMixture, GaussianMixture, jobs, load
from daskgmm.core import covariance
from daskgmm.core.mixture import MixtureParameters
from daskgmm.core.state_arrays import MixtureArrays
from daskgmm.data.stored_rows import StoreSource
from daskgmm.data.write import check_target, new_store, record
from daskgmm.diagnostics.digits import decimals
from daskgmm.diagnostics.summary import print_record
from daskgmm.engine.environment import environment
from daskgmm.errors import (
    InvalidAttributesError,
    ModelFormatError,
    OutputError,
    OutputExistsError,
    StoreNotFoundError,
)
from daskgmm.estimators import loading, model_kinds
from daskgmm.estimators.model_record import model_record
from daskgmm.fitting.origin import ArrayOrigin
from daskgmm.inspection import store_record
from daskgmm.names import COVARIANCE_TYPES
from daskgmm.persistence import layout
from daskgmm.persistence.layout import ModelKind, StoredModel
from daskgmm.persistence.reading import read_model
from daskgmm.persistence.writing import write_model

STRUCTURES = list(COVARIANCE_TYPES)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(c, 1.0, (300, 3)) for c in (-4.0, 0.0, 5.0)])


@pytest.fixture(scope="module")
def model(rows):
    return GaussianMixture(3, random_state=0).fit(rows)


@pytest.fixture
def saved(model, tmp_path):
    path = tmp_path / "model.zarr"
    model.save(path)
    return path


def edit(path, change, *, seal=True):
    """Change the attributes of a saved model, and make its checksum fit again."""
    file = path / "zarr.json"
    metadata = json.loads(file.read_text())
    attributes = metadata["attributes"]["daskgmm"]
    change(attributes)
    if seal:
        attributes["checksums"]["attributes"] = layout.digest(attributes)
    file.write_text(json.dumps(metadata))


def replace(path, name, values):
    """Replace an array of a saved model by one that has the right checksum."""
    group = zarr.open_group(path, mode="r+")
    del group[name]
    stored = group.create_array(name, shape=values.shape, chunks=values.shape, dtype=values.dtype, compressors=None)
    stored[...] = values
    edit(path, lambda a: a["checksums"].update({name: layout.checksum(values)}))


# ---- what comes back


@pytest.mark.parametrize("covariance_type", STRUCTURES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_loaded_model_predicts_the_same_bits(rows, tmp_path, covariance_type, dtype):
    x = rows.astype(dtype)
    model = GaussianMixture(3, covariance_type=covariance_type, random_state=0, tol=1e-2).fit(x)
    model.save(tmp_path / "m.zarr")
    loaded = daskgmm.load(tmp_path / "m.zarr")
    for method in ("predict", "predict_proba", "score_samples"):
        np.testing.assert_array_equal(getattr(loaded, method)(x), getattr(model, method)(x))
    assert loaded.score(x) == model.score(x)
    for name in [name for name in vars(model) if name.endswith("_")]:
        ours, theirs = getattr(model, name), getattr(loaded, name)
        np.testing.assert_array_equal(theirs, ours, err_msg=name)
        assert np.asarray(theirs).dtype == np.asarray(ours).dtype, name
    assert loaded.get_params() == model.get_params()


@pytest.mark.parametrize("covariance_type", STRUCTURES)
@pytest.mark.parametrize("family", ["dirichlet_process", "dirichlet_distribution"])
def test_a_loaded_posterior_is_the_one_that_was_saved(rows, tmp_path, covariance_type, family):
    model = BayesianGaussianMixture(
        n_components=3,
        covariance_type=covariance_type,
        weight_concentration_prior_type=family,
        random_state=0,
        tol=1e-2,
    ).fit(rows)
    model.save(tmp_path / "m.zarr")
    loaded = daskgmm.load(tmp_path / "m.zarr")
    assert type(loaded) is BayesianGaussianMixture
    assert loaded.get_params() == model.get_params()
    names = [name for name in vars(model) if name.endswith("_")]
    assert len(names) == 22
    for name in names:
        ours, theirs = getattr(model, name), getattr(loaded, name)
        assert type(theirs) is type(ours), name
        np.testing.assert_array_equal(theirs, ours, err_msg=name)
    for method in ("predict", "predict_proba", "score_samples", "score"):
        np.testing.assert_array_equal(getattr(loaded, method)(rows), getattr(model, method)(rows))
    assert loaded.sample(5)[0].tolist() == model.sample(5)[0].tolist()
    again = [m.set_params(warm_start=True, tol=0, max_iter=2) for m in (model, loaded)]
    with pytest.warns(UserWarning, match="did not converge"):
        bounds = [m.fit(rows).lower_bounds_ for m in again]
    assert bounds[0] == bounds[1]


@pytest.mark.parametrize(
    ("covariance_type", "covariance"), [("full", np.eye(3)), ("diag", np.ones(3, np.float32)), ("spherical", 0.5)]
)
def test_given_priors_are_kept(rows, tmp_path, covariance_type, covariance):
    model = BayesianGaussianMixture(
        covariance_type=covariance_type,
        mean_prior=[1, 2, 3],
        covariance_prior=covariance,
        degrees_of_freedom_prior=np.float32(7.5),
        weight_concentration_prior=0.125,
        mean_precision_prior=2,
    ).fit(rows)
    model.save(tmp_path / "m.zarr")
    loaded = daskgmm.load(tmp_path / "m.zarr")
    np.testing.assert_array_equal(loaded.mean_prior, [1, 2, 3])
    np.testing.assert_array_equal(loaded.covariance_prior, covariance)
    assert type(loaded.covariance_prior) is type(covariance)
    priors = loaded.degrees_of_freedom_prior, loaded.weight_concentration_prior, loaded.mean_precision_prior
    assert priors == (7.5, 0.125, 2)
    np.testing.assert_array_equal(clone(loaded).fit(rows).means_, model.means_)


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("weight_concentration", lambda c: -c, "weight_concentration has to be positive"),
        ("mean_precision", lambda c: c * np.nan, "mean_precision contain NaN"),
        ("degrees_of_freedom", lambda c: c * 0 + 2, "degrees_of_freedom has to be greater than 2"),
        ("prior_degrees_of_freedom", lambda c: c * 0, "prior_degrees_of_freedom has to be positive"),
        ("prior_mean_precision", lambda c: c * np.inf, "prior_mean_precision contain NaN or infinity"),
        ("prior_covariance", lambda c: c[:2].copy(), r"prior_covariance has shape \(2, 3\); expected \(3, 3\)"),
        ("covariances", lambda c: -c, "covariances are not positive definite"),
    ],
)
def test_values_that_are_no_posterior(rows, tmp_path, name, change, match):
    path = tmp_path / "model.zarr"
    BayesianGaussianMixture(n_components=3, random_state=0, tol=1).fit(rows).save(path)
    replace(path, name, np.asarray(change(zarr.open_group(path, mode="r")[name][...])))
    refused(path, match)


def test_a_file_that_names_the_other_kind_of_mixture(saved):
    edit(saved, lambda a: a.update(estimator="BayesianGaussianMixture"))
    refused(saved, r"parameters hold \[.acceleration.\], which BayesianGaussianMixture does not have")


def test_a_loaded_model_can_be_cloned_fitted_again_and_saved(rows, model, saved):
    loaded = daskgmm.load(saved)
    again = clone(loaded).fit(rows)
    np.testing.assert_array_equal(again.means_, model.means_)
    assert loaded.sample(5)[0].tolist() == model.sample(5)[0].tolist()
    pickle.loads(pickle.dumps(loaded)).save(saved, overwrite=True)
    np.testing.assert_array_equal(daskgmm.load(saved).predict(rows), model.predict(rows))


def test_warm_start_goes_on_where_the_saved_fit_stopped(rows, tmp_path):
    def settings(**more):
        return {"n_components": 3, "random_state": 1, "tol": 1e-12, "init_params": "random", **more}

    whole = GaussianMixture(**settings(max_iter=6))
    first = GaussianMixture(**settings(max_iter=3, warm_start=True))
    with pytest.warns(UserWarning, match="did not converge"):
        whole.fit(rows)
    with pytest.warns(UserWarning, match="did not converge"):
        first.fit(rows)
    first.save(tmp_path / "m.zarr")
    loaded = daskgmm.load(tmp_path / "m.zarr")
    with pytest.warns(UserWarning, match="did not converge"):
        loaded.fit(rows)
    np.testing.assert_array_equal(loaded.means_, whole.means_)
    assert loaded.lower_bounds_ == whole.lower_bounds_[3:]


def test_what_a_fit_was_computed_with_is_kept_whoever_saves_it(rows, model, saved, tmp_path):
    assert model.environment_ == environment() | {"loops": "numpy"}
    loaded = daskgmm.load(saved)
    loaded.environment_ = loaded.environment_ | {"blas": "of another machine"}
    loaded.save(tmp_path / "again.zarr")
    again = daskgmm.load(tmp_path / "again.zarr")
    assert again.environment_ == model.environment_ | {"blas": "of another machine"}
    assert again.fit(rows).environment_ == model.environment_


def test_files_that_do_not_tell_what_a_fit_was_computed_with(saved):
    edit(saved, lambda a: a.pop("environment"))
    loaded = daskgmm.load(saved)
    assert loaded.environment_ == {}
    loaded.save(saved, overwrite=True)
    assert daskgmm.load(saved).environment_ == {}
    assert "fitted with" not in shown(saved)


def origin_of(model):
    return model.origin_.data.kind, model.origin_.data.address, model.origin_.data.shape, model.origin_.data.dtype


@pytest.mark.parametrize("kind", [GaussianMixture, BayesianGaussianMixture])
def test_a_model_knows_its_data_and_its_date(rows, tmp_path, kind):
    path, weights = tmp_path / "data.zarr", tmp_path / "weights.npy"
    group = zarr.open_group(path, mode="w")
    group.create_array("rows", data=rows.astype(np.float32), chunks=(200, 3))
    np.save(weights, np.ones(len(rows)))
    begin = datetime.now(UTC).replace(microsecond=0)
    model = kind(n_components=2, random_state=0).fit(f"{path}::rows", sample_weight=np.load(weights, mmap_mode="r"))
    assert begin <= datetime.fromisoformat(model.origin_.date) <= datetime.now(UTC)
    assert origin_of(model) == ("Zarr array", str(path / "rows"), (900, 3), "float32")
    assert model.origin_.sample_weight.address == str(weights)
    assert model.origin_.sample_weight.kind == "memory-mapped file"
    model.save(tmp_path / "m.zarr")
    loaded = daskgmm.load(tmp_path / "m.zarr")
    assert loaded.origin_ == model.origin_
    assert daskgmm.GaussianMixture(1).fit(model.origin_.data.address).origin_.data == model.origin_.data
    loaded.save(tmp_path / "again.zarr")
    assert daskgmm.load(tmp_path / "again.zarr").origin_ == model.origin_
    assert not hasattr(clone(model), "origin_")
    model.fit(rows)
    assert origin_of(model) == ("array in memory", None, (900, 3), "float64")
    assert model.origin_.sample_weight is None
    assert origin_of(model.fit(da.from_array(rows, chunks=100)))[:2] == ("dask array", None)


def test_the_terminal_and_select_tell_of_the_data_too(rows, tmp_path):
    path = tmp_path / "data.zarr"
    zarr.create_array(path, data=rows, chunks=(200, 3))
    jobs.fit(jobs.Rows(str(path)), str(tmp_path / "m.zarr"), {"n_components": 2})
    assert origin_of(daskgmm.load(tmp_path / "m.zarr"))[:2] == ("Zarr array", str(path))
    found = daskgmm.select(path, [1, 2], held_out=0.2, criterion="held_out")
    assert origin_of(found.model) == ("Zarr array", str(path), (900, 3), "float64")
    assert found.model.origin_.sample_weight is None


def test_an_origin_has_no_secrets(rows, tmp_path):
    folder = f"{os.urandom(4).hex()}/" + "x" * 300  # longer than what a message shows
    fsspec.filesystem("memory").mkdir(f"/{folder}")
    zarr.create_array(f"memory://{folder}", data=rows)
    model = GaussianMixture(1).fit(f"memory://{folder}")
    assert model.origin_.data.address.endswith(folder)
    told = ArrayOrigin.of(
        StoreSource(zarr.open_array(f"memory://user:password@{folder}?token=secret", mode="w", shape=(3, 2)))
    )
    assert "password" not in str(told)
    assert "secret" not in str(told)


def test_files_that_do_not_tell_of_the_data(saved, tmp_path):
    edit(saved, lambda a: a.pop("origin"))
    loaded = daskgmm.load(saved)
    assert not hasattr(loaded, "origin_")
    assert store_record(str(saved))["origin"] is None
    assert "data" not in shown(saved)
    loaded.save(tmp_path / "again.zarr")
    loaded.origin_ = "somewhere"
    with pytest.raises(InvalidAttributesError, match="origin_ is 'somewhere'"):
        loaded.save(tmp_path / "third.zarr")


@pytest.mark.parametrize("covariance_type", STRUCTURES)
def test_a_summary_shows_origin_settings_and_covariances(rows, tmp_path, covariance_type):
    path = tmp_path / "data.zarr"
    zarr.create_array(path, data=rows, chunks=(200, 3))
    model = GaussianMixture(
        2, covariance_type=covariance_type, tol=0.02, random_state=7, means_init=[[-4] * 3, [3] * 3]
    ).fit(path, sample_weight=np.ones(900))
    model.save(tmp_path / "m.zarr")
    record = json.loads(json.dumps(store_record(str(tmp_path / "m.zarr"))))
    assert record["origin"] == json.loads(json.dumps(model.origin_.as_record()))
    assert record["settings"].keys() == model.get_params().keys() - {"cache", "scheduler", "callbacks"}
    assert record["settings"]["tol"] == 0.02
    assert record["settings"]["means_init"] == [[-4] * 3, [3] * 3]
    np.testing.assert_array_equal(record["covariances"], model.covariances_)
    text = shown(tmp_path / "m.zarr")
    lines = {line[:16].strip(): line[16:].strip() for line in text.splitlines()}
    assert lines["data"] == f"{path}, 900 rows × 3 features, float64; weights: array in memory, 900 rows, float64"
    assert lines["fitted"] == f"{model.origin_.date[:10]} {model.origin_.date[11:16]} UTC"
    assert sorted(lines["settings"].split(", ")) == ["means_init given", "random_state 7", "tol 0.02"]
    assert lines["log-likelihood"] == f"{model.lower_bound_:.4f} nats per row"  # a tenth of one part in 900
    whole = covariance_type in ("full", "tied")
    assert (f"{np.reshape(model.covariances_, -1)[3 if whole else 0]:.4g}" in text.split("mixture")[0]) == whole


def test_a_summary_of_a_class_that_somebody_derived(rows):
    class Mine(GaussianMixture):
        pass

    console = Console(width=200, record=True, file=io.StringIO())
    print_record(model_record(Mine(2, random_state=434_932_939).fit(rows)), console)
    (told,) = (line for line in console.export_text().splitlines() if line.startswith("settings"))
    assert told.split() == ["settings", "random_state", "434932939,", "tol", "0.001"]


def test_digits_of_log_likelihoods_are_those_that_count():
    assert [decimals(n) for n in (None, 1, 10, 300, 10**6, 10**9, 10**15)] == [6, 3, 3, 4, 7, 10, 12]
    console = Console(width=100, record=True, file=io.StringIO())
    print_record({"kind": "score", "log_likelihood": -1 / 3, "n_rows": 10**6, "bic": 2e6 / 3, "icl": np.inf}, console)
    told = console.export_text()
    assert "-0.3333333 nats per row" in told
    assert "666,666.7" in told


def shown(path):
    console = Console(width=200, record=True, file=io.StringIO())
    print_record(store_record(str(path)), console)
    return console.export_text()


def test_a_summary_tells_what_a_fit_was_computed_with(saved):
    told = environment()
    (line,) = [line for line in shown(saved).splitlines() if line.startswith("fitted with")]
    assert told["blas"] in line
    assert f"numpy {told['numpy']}, loops by numpy" in line
    assert store_record(str(saved))["environment"] == told | {"loops": "numpy"}
    edit(saved, lambda a: a["environment"].update(workers="1 of 2 with blas \x1b[31m"))
    assert "; workers: 1 of 2 with blas ?[31m" in shown(saved)


@pytest.mark.parametrize("wrong", [{"blas": 3}, None, {"blas": "x" * 5000}])
def test_what_is_no_record_of_a_fit_is_not_saved(rows, model, tmp_path, wrong):
    changed = clone(model).fit(rows)
    changed.environment_ = wrong
    with pytest.raises(ValueError, match=r"cannot be saved: its environment_ (has to|holds)"):
        changed.save(tmp_path / "m.zarr")
    assert os.listdir(tmp_path) == []


def test_given_parameters_and_odd_values_are_kept(rows, tmp_path):
    model = GaussianMixture(
        np.int64(2),
        tol=np.float32(0.1),
        max_iter=0,
        weights_init=np.array([0.25, 0.75], np.float32),
        means_init=[[0, 0, 0], [1, 1, 1]],
        precisions_init=np.stack([np.eye(3)] * 2),
    ).fit(rows)
    model.save(tmp_path / "m.zarr")
    loaded = daskgmm.load(tmp_path / "m.zarr")
    assert loaded.tol == float(np.float32(0.1))
    assert loaded.lower_bound_ == -np.inf
    assert loaded.lower_bounds_ == []
    assert loaded.weights_init.dtype == np.float32
    np.testing.assert_array_equal(loaded.means_init, [[0, 0, 0], [1, 1, 1]])
    np.testing.assert_array_equal(loaded.precisions_init, np.stack([np.eye(3)] * 2))


def test_feature_names_come_back(rows, tmp_path):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(rows, columns=["temperature", "salinity", "Tiefe µ"])
    model = GaussianMixture(2, random_state=0).fit(frame)
    model.save(tmp_path / "m.zarr")
    loaded = daskgmm.load(tmp_path / "m.zarr")
    assert loaded.feature_names_in_.tolist() == ["temperature", "salinity", "Tiefe µ"]
    np.testing.assert_array_equal(loaded.predict(frame), model.predict(frame))


def test_what_belongs_to_a_process_is_left_out(rows, tmp_path):
    model = GaussianMixture(2, random_state=np.random.RandomState(0), callbacks=[print], scheduler="synchronous")
    model.set_params(callbacks=[lambda event: None]).fit(rows)
    with pytest.warns(UserWarning, match="random_state is a RandomState"):
        model.save(tmp_path / "m.zarr")
    loaded = daskgmm.load(tmp_path / "m.zarr")
    assert (loaded.random_state, loaded.callbacks, loaded.scheduler) == (None, (), None)


def test_attributes_set_by_hand_are_what_is_saved(rows, model, tmp_path):
    changed = clone(model).fit(rows)
    changed.means_ = changed.means_ + 1
    changed.save(tmp_path / "m.zarr")
    np.testing.assert_array_equal(daskgmm.load(tmp_path / "m.zarr").predict(rows), changed.predict(rows))


def test_urls(model, rows, saved):
    url = f"memory://{os.urandom(4).hex()}/model.zarr"
    model.save(url)
    np.testing.assert_array_equal(daskgmm.load(url).predict(rows), model.predict(rows))
    with pytest.raises(OutputExistsError):
        model.save(url)
    with pytest.raises(OutputExistsError, match="only local stores"):
        model.save(url, overwrite=True)
    np.testing.assert_array_equal(daskgmm.load(f"file://{saved}").means_, model.means_)
    model.save(f"file://{saved}.second")
    np.testing.assert_array_equal(daskgmm.load(f"{saved}.second").means_, model.means_)


def test_a_write_to_a_url_that_fails_leaves_nothing(model, monkeypatch):
    url = f"memory://{os.urandom(4).hex()}/model.zarr"
    fail_while_writing(monkeypatch)
    with pytest.raises(RuntimeError, match="disk"):
        model.save(url)
    with pytest.raises(StoreNotFoundError):
        daskgmm.load(url)


# ---- written whole or not at all


def fail_while_writing(monkeypatch, after=2):
    """Let the disk fill up after a few arrays."""
    create = zarr.Group.create_array
    calls = []

    def failing(self, name, **kwargs):
        calls.append(name)
        if len(calls) > after:
            raise RuntimeError("disk full")
        return create(self, name, **kwargs)

    monkeypatch.setattr(zarr.Group, "create_array", failing)
    return calls


def test_a_failed_write_leaves_nothing(model, tmp_path, monkeypatch):
    assert fail_while_writing(monkeypatch) == []
    with pytest.raises(RuntimeError, match="disk full"):
        model.save(tmp_path / "model.zarr")
    assert os.listdir(tmp_path) == []


def test_an_overwrite_that_fails_leaves_the_old_model(model, rows, saved, monkeypatch):
    other = GaussianMixture(2, random_state=0).fit(rows)
    fail_while_writing(monkeypatch)
    with pytest.raises(RuntimeError, match="disk full"):
        other.save(saved, overwrite=True)
    assert os.listdir(saved.parent) == ["model.zarr"]
    assert daskgmm.load(saved).n_components == model.n_components


def test_a_rename_that_fails_leaves_the_old_model(model, rows, saved, monkeypatch):
    other = GaussianMixture(2, random_state=0).fit(rows)
    rename = os.rename

    def failing(source, target):
        if str(source).endswith(".partial") and str(target).endswith("model.zarr"):
            raise OSError("no")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="no"):
        other.save(saved, overwrite=True)
    assert os.listdir(saved.parent) == ["model.zarr"]
    assert daskgmm.load(saved).n_components == model.n_components


def test_the_model_has_its_name_only_when_it_is_complete(model, tmp_path, monkeypatch):
    seen = []
    create = zarr.Group.create_array

    def watching(self, name, **kwargs):
        seen.append(sorted(os.listdir(tmp_path)))
        return create(self, name, **kwargs)

    monkeypatch.setattr(zarr.Group, "create_array", watching)
    model.save(tmp_path / "model.zarr")
    assert all(len(names) == 1 and names[0].startswith(".model.zarr.") for names in seen)
    assert os.listdir(tmp_path) == ["model.zarr"]


def test_existing_outputs_are_refused(model, rows, saved, tmp_path):
    with pytest.raises(OutputExistsError, match=r"model\.zarr exists already.*overwrite=True"):
        model.save(saved)
    other = GaussianMixture(2, random_state=0).fit(rows)
    other.save(saved, overwrite=True)
    assert len(daskgmm.load(saved).weights_) == 2
    assert os.listdir(tmp_path) == ["model.zarr"]


def test_only_our_own_outputs_are_ever_replaced(model, tmp_path):
    data = tmp_path / "data.zarr"
    zarr.create_array(data, data=np.ones((4, 2)))
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "a.txt").write_text("mine")
    file = tmp_path / "file"
    file.write_text("mine")
    results = tmp_path / "results.zarr"
    with new_store(results, record("results")):
        pass
    for path in (data, notes, file, results):
        with pytest.raises(OutputExistsError, match="not a model store that daskgmm wrote"):
            model.save(path, overwrite=True)
    assert zarr.open_array(data)[:].sum() == 8
    assert (notes / "a.txt").read_text() == file.read_text() == "mine"


def test_somebody_else_may_be_faster(tmp_path):
    path = tmp_path / "model.zarr"

    def write():
        with new_store(path, record("model")):
            path.mkdir()
            (path / "theirs").write_text("x")

    with pytest.raises(OutputExistsError):
        write()
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.zarr"]
    assert (path / "theirs").read_text() == "x"


def test_targets_are_checked_before_any_work(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        check_target(tmp_path / "file" / "below" / "model.zarr", "model")
    with pytest.raises(ValueError, match="store of its own"):
        check_target("data.zarr::model", "model")
    with pytest.raises(ValueError, match="cannot be written"):
        check_target("nonsense://somewhere/model.zarr", "model")
    for check in (check_target, lambda path, kind: model.save(path)):
        with pytest.raises(OutputError, match=r"There is no directory .*new/directories .*mkdir -p"):
            check(tmp_path / "new" / "directories" / "model.zarr", "model")
    assert not (tmp_path / "new").exists()


def test_what_is_no_model_is_never_offered_to_be_overwritten(rows, model, tmp_path):
    zarr.create_array(tmp_path / "data.zarr", data=rows)
    for overwrite in (False, True):
        with pytest.raises(OutputExistsError, match=r"data\.zarr exists already.* not a model store") as caught:
            model.save(tmp_path / "data.zarr", overwrite=overwrite)
        assert "overwrite=True" not in str(caught.value)
    fsspec.filesystem("memory").pipe_file("/there/zarr.json", b"{}")
    with pytest.raises(OutputExistsError, match="memory://there exists already, and only local stores") as caught:
        model.save("memory://there")
    assert "overwrite=True" not in str(caught.value)
    fsspec.filesystem("memory").rm("/there", recursive=True)


def test_a_record_of_a_model_needs_no_estimator(tmp_path):
    state = MixtureParameters.from_covariances(
        covariance.STRUCTURES["diag"], np.array([0.25, 0.75]), np.arange(4.0).reshape(2, 2), np.ones((2, 2))
    )
    written = StoredModel(
        estimator="Toy",
        parameters={"depth": 2},
        given={"start": np.arange(3.0)},
        state_arrays=MixtureArrays(),
        state=state,
        dtype=np.dtype(np.float64),
        facts={"n_iter": 7},
        feature_names=("a", "b"),
        environment={"numpy": "2"},
        origin=None,
    )
    write_model(tmp_path / "m.zarr", written)
    toy = ModelKind("Toy", frozenset({"depth"}), ("start",), lambda parameters: MixtureArrays())
    found = read_model(tmp_path / "m.zarr", [toy])
    np.testing.assert_array_equal(found.given["start"], written.given["start"])
    for name, array in MixtureArrays().arrays(state).items():
        np.testing.assert_array_equal(getattr(found.state, name), array)
    assert dataclasses.replace(found, state=state, given=written.given) == written
    with pytest.raises(ModelFormatError, match="estimator is 'Toy'; expected one of GaussianMixture, Bayesian"):
        load(tmp_path / "m.zarr")


def test_a_home_directory(model, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    model.save("~/m.zarr")
    assert os.listdir(tmp_path) == ["m.zarr"]
    np.testing.assert_array_equal(load("~/m.zarr").means_, model.means_)


def test_what_cannot_be_saved_is_refused(rows, model, tmp_path):
    with pytest.raises(NotFittedError):
        GaussianMixture().save(tmp_path / "m.zarr")

    class Special(GaussianMixture):
        pass

    with pytest.raises(TypeError, match="model is a Special"):
        Special(random_state=0).fit(rows).save(tmp_path / "m.zarr")
    broken = clone(model).fit(rows)
    broken.weights_ = broken.weights_ * 2
    with pytest.raises(ValueError, match="weights_ have to"):
        broken.save(tmp_path / "m.zarr")
    broken = clone(model).fit(rows)
    broken.environment_ = {"numpy": 2}
    with pytest.raises(ValueError, match="environment_ holds 2; expected a text"):
        broken.save(tmp_path / "m.zarr")
    assert os.listdir(tmp_path) == []


# ---- what is refused


def refused(path, match, error=ModelFormatError):
    with pytest.raises(error, match=match) as caught:
        daskgmm.load(path)
    assert str(path) in str(caught.value)


def test_nothing_there(tmp_path):
    refused(tmp_path / "none.zarr", "nothing at", StoreNotFoundError)


def test_not_zarr(tmp_path):
    (tmp_path / "file").write_text("text")
    (tmp_path / "directory").mkdir()
    refused(tmp_path / "file", "is no model")
    refused(tmp_path / "directory", "is no model")


def test_zarr_that_is_no_model(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=np.ones(3))
    zarr.create_group(tmp_path / "g.zarr", attributes={"daskgmm": "yes"})
    zarr.create_group(tmp_path / "v2.zarr", zarr_format=2)
    with new_store(tmp_path / "r.zarr", record("results")):
        pass
    refused(tmp_path / "a.zarr", "is a Zarr array, and no model")
    refused(tmp_path / "g.zarr", "is a Zarr group, and no model")
    refused(tmp_path / "v2.zarr", "is a Zarr group, and no model")
    refused(tmp_path / "r.zarr", r"is a Zarr group \('results'\), and no model")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"zarr_format": 3}', "null", "\x00\x01"])
def test_damaged_root_metadata(saved, content):
    (saved / "zarr.json").write_text(content)
    refused(saved, "no model")


@pytest.mark.parametrize("name", ["weights", "means", "covariances", "precisions_cholesky"])
def test_missing_and_damaged_arrays(saved, name):
    intact = saved.parent / "intact.zarr"
    shutil.copytree(saved, intact)
    chunk = next(path for path in (saved / name / "c").rglob("*") if path.is_file())
    content = bytearray(chunk.read_bytes())
    content[3] ^= 1
    chunk.write_bytes(content)
    refused(saved, f"{name} does not match its checksum")
    chunk.write_bytes(content[:-8])
    refused(saved, f"{name} declares .* bytes, and fewer are stored|{name} cannot be read")
    chunk.unlink()
    refused(saved, f"{name} declares .* bytes, and fewer are stored|{name} does not match")
    (saved / name / "zarr.json").write_text("{}")
    refused(saved, f"{name} (cannot be read|is missing)")
    shutil.rmtree(saved / name)
    refused(saved, f"{name} is missing")
    daskgmm.load(intact)


def test_attributes_edited_by_hand(saved):
    edit(saved, lambda a: a["fitted"].update(n_iter=7), seal=False)
    refused(saved, "attributes do not match their checksum")


def test_a_newer_format_says_what_to_install(saved):
    edit(saved, lambda a: a.update(format_version=2, daskgmm_version="0.9.1", extra="?"), seal=False)
    refused(saved, r"format_version is 2, .*pip install 'daskgmm>=0\.9\.1'")
    edit(saved, lambda a: a.update(daskgmm_version="1'; rm -rf"), seal=False)
    refused(saved, "pip install '--upgrade daskgmm'")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda a: a.update(format_version="1"), "format_version is '1'"),
        (lambda a: a.update(format_version=True), "format_version is True"),
        (lambda a: a.update(estimator="os.system"), "estimator is 'os.system'; expected one of GaussianMixture"),
        (lambda a: a.update(estimator=["x"]), "estimator is"),
        (lambda a: a.update(parameters=None), "parameters is missing or damaged"),
        (lambda a: a["parameters"].update(surprise=1), r"parameters hold \['surprise'\]"),
        (lambda a: a["parameters"].update(scheduler="tcp://evil:1"), "parameters hold"),
        (lambda a: a["parameters"].update(tol=-1), "parameters are not valid.*tol"),
        (lambda a: a["parameters"].update(n_components={}), "parameters are not valid.*n_components"),
        (lambda a: a.pop("fitted"), "fitted is missing"),
        (lambda a: a.update(environment=None), "environment has to be a mapping of at most 64 names to texts"),
        (
            lambda a: a.update(environment=[["blas", "x"]]),
            "environment has to be a mapping of at most 64 names to texts",
        ),
        (
            lambda a: a.update(environment={str(i): "x" for i in range(65)}),
            "environment has to be a mapping of at most 64 names to texts",
        ),
        (lambda a: a["environment"].update(blas=5), "environment holds 5; expected a text of at most 4096 characters"),
        (lambda a: a["environment"].update(blas={"x": "y"}), r"environment holds \{'x': 'y'\}; expected a text"),
        (lambda a: a["environment"].update(blas="x" * 5000), "environment holds 'xxx"),
        (lambda a: a["environment"].update({"y" * 5000: "x"}), "environment holds 'yyy"),
        (lambda a: a["environment"].update(blas="\ud800"), r"environment holds '\\ud800'"),
        (lambda a: a["fitted"].update(covariance_type="round"), "covariance_type is 'round'"),
        (lambda a: a["fitted"].update(covariance_type="diag"), r"covariances has shape \(3, 3, 3\); expected \(3, 3\)"),
        (lambda a: a["fitted"].update(n_components=4), r"weights has shape \(3,\); expected \(4,\)"),
        (lambda a: a["fitted"].update(n_components=0), "n_components is 0"),
        (lambda a: a["fitted"].update(n_features_in=2), r"means has shape \(3, 3\); expected \(3, 2\)"),
        (lambda a: a["fitted"].update(n_iter=-1), "n_iter is -1"),
        (lambda a: a["fitted"].update(n_passes="many"), "n_passes is 'many'"),
        (lambda a: a["fitted"].update(dtype="object"), "dtype is 'object'"),
        (lambda a: a["fitted"].update(lower_bound=None), "lower_bound has to be a number"),
        (lambda a: a["fitted"].update(lower_bounds=3), "lower_bounds has to be a list of numbers"),
        (lambda a: a["fitted"].update(feature_names_in=["a"]), "feature_names_in has to hold 3 names"),
        (lambda a: a["checksums"].pop("means"), "means does not match its checksum"),
    ],
)
def test_attributes_that_are_not_those_of_a_model(saved, change, match):
    edit(saved, change)
    refused(saved, match)


def test_without_checksums(saved):
    edit(saved, lambda a: a.pop("checksums"), seal=False)
    refused(saved, "checksums is missing")


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("weights", lambda w: w * 1.01, "weights have to sum to one, and none may be negative"),
        ("weights", lambda w: w * [-1, 1, 1], "none may be negative: the sum is .*, the least -"),
        ("weights", lambda w: w * [np.nan, 1, 1], "weights contain NaN"),
        ("means", lambda m: m + np.inf, "means contain NaN or infinity"),
        ("covariances", lambda c: -c, "covariances are not positive definite"),
        ("covariances", lambda c: c * np.nan, "covariances contain NaN"),
        ("precisions_cholesky", lambda c: c * 0, "precisions_cholesky are no Cholesky factors"),
        ("precisions_cholesky", lambda c: -c, "precisions_cholesky are no Cholesky factors"),
        ("means", lambda m: m.astype(np.float32), "means has dtype float32"),
        ("means", lambda m: m.astype(np.int64), "means has dtype int64"),
        ("means", lambda m: m[:, :2].copy(), "means has shape"),
    ],
)
def test_values_that_are_no_mixture(saved, name, change, match):
    replace(saved, name, np.asarray(change(zarr.open_group(saved, mode="r")[name][:])))
    refused(saved, match)


def test_a_group_in_the_place_of_an_array(saved):
    shutil.rmtree(saved / "means")
    zarr.open_group(saved, mode="r+").create_group("means")
    refused(saved, "means is a group")


def test_compressed_arrays_are_refused(saved):
    group = zarr.open_group(saved, mode="r+")
    means = group["means"][:]
    del group["means"]
    group.create_array("means", data=means)
    refused(saved, "means is not stored as one uncompressed chunk")


def test_absurd_sizes_are_not_allocated(saved):
    """A terabyte that is declared everywhere alike, and of which nothing is stored."""
    k = 10**11
    group = zarr.open_group(saved, mode="r+")
    for name, shape in [("weights", (k,)), ("means", (k, 3)), ("covariances", (k, 3, 3))]:
        del group[name]
        group.create_array(name, shape=shape, chunks=shape, dtype="f8", compressors=None, fill_value=1 / k)
    edit(saved, lambda a: (a["fitted"].update(n_components=k), a["parameters"].update(n_components=k)))
    refused(saved, "weights declares 800000000000 bytes, and fewer are stored")


def test_credentials_stay_out_of_messages():
    with pytest.raises((ModelFormatError, StoreNotFoundError, ValueError)) as caught:
        daskgmm.load("memory://user:secret@nowhere/model.zarr?token=secret")
    assert "secret" not in str(caught.value)


def test_a_class_that_is_declared_as_storable_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr(model_kinds, "STORABLE", dict(model_kinds.STORABLE))
    monkeypatch.setattr(loading, "STORABLE", model_kinds.STORABLE)

    @model_kinds.storable("weights_init", "means_init", "precisions_init")
    class Mine(GaussianMixture):
        pass

    rows = np.random.default_rng(0).normal(size=(100, 2))
    Mine(2, random_state=0).fit(rows).save(tmp_path / "m.zarr")
    again = daskgmm.load(tmp_path / "m.zarr")
    assert type(again) is Mine
    assert len(again.predict(rows)) == 100
