"""Same data, settings and seed: the same bits; and what that depends on, told by every model."""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import dask
import dask.array as da
import distributed
import numpy as np
import pytest
import threadpoolctl
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from products import mostly_slow

from daskgmm import BayesianGaussianMixture, GaussianMixture, Selection, select
from daskgmm.engine import blas, run
from daskgmm.engine import environment as engine_environment
from daskgmm.engine.environment import differences, environment
from daskgmm.engine.environment_report import TOPIC, EnvironmentReport, by_worker
from daskgmm.errors import ReproducibilityWarning
from daskgmm.tuning import tuned

pytestmark = [
    pytest.mark.covering,
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.timeout(300),
]

quick = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

N, D = 6000, 3
LEAF = 512  # several levels of the tree, in leaves long enough for BLAS to treat lengths and threads differently


@pytest.fixture(scope="module", autouse=True)
def many_tasks():
    """Many leaves and many tasks a pass, though the rows are few."""
    with tuned(shortest_leaf=LEAF, longest_leaf=LEAF, shortest_task=0.0):
        yield


def overlapping(n, seed=0):
    rng = np.random.RandomState(seed)
    return rng.normal(size=(n, D)) + np.array([[0, 0, 0], [3, 1, 0], [0, 4, 2], [2, 2, 2]])[rng.randint(4, size=n)]


X = overlapping(N)
WEIGHTS = np.random.RandomState(1).rand(N)


# ---- everything that a fit leaves, to the bit

FITS = {
    "maximum likelihood": lambda x, **how: GaussianMixture(4, random_state=0, max_iter=8, **how).fit(x),
    "weighted": lambda x, **how: GaussianMixture(3, covariance_type="tied", random_state=0, max_iter=4, **how).fit(
        x, sample_weight=WEIGHTS
    ),
    "samples, L-BFGS": lambda x, **how: GaussianMixture(
        4, random_state=0, init_size=2500, n_init="auto", acceleration="lbfgs", tol=1e-4, **how
    ).fit(x),
    "variational": lambda x, **how: BayesianGaussianMixture(
        n_components=4, covariance_type="diag", random_state=0, max_iter=8, **how
    ).fit(x),
    "select": lambda x, **how: select(
        x, (2, 4), ("full", "spherical"), estimator=GaussianMixture(random_state=0, max_iter=5), held_out=0.1, **how
    ),
    "select, variational": lambda x, **how: select(
        x, (2, 3), criterion="held_out", estimator=BayesianGaussianMixture(random_state=0, max_iter=4), **how
    ),
}


def bits(value):
    """Something that is equal only to the same bits."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, float):
        return float(value).hex()
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [bits(item) for item in value]
    if isinstance(value, GaussianMixture | BayesianGaussianMixture):
        names = [
            name for name in vars(value) if name.endswith("_") and name != "origin_"
        ]  # where the rows were, and when
        return {name: bits(attribute(value, name)) for name in names}
    if isinstance(value, Selection):
        return {name: bits(item) for name, item in vars(value).items()}
    assert value is None or isinstance(value, int | str), type(value)
    return value


def attribute(model, name):
    if name != "history_":
        return getattr(model, name)
    # Rows in memory are never kept for the next pass; the rows of a pass are as many bytes wherever they come from.
    return [
        {key: value for key, value in vars(record).items() if key not in ("seconds", "bytes_read", "bytes_cached")}
        | {"bytes": record.bytes_read + record.bytes_cached}
        for record in model.history_
    ]


@pytest.fixture(scope="module")
def expected():
    """Bits of each fit of rows in memory, one task after the other."""
    return {name: bits(fit(X, scheduler="synchronous")) for name, fit in FITS.items()}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "x.zarr"
    zarr.create_array(path, shape=X.shape, dtype=X.dtype, chunks=(700, 2), shards=(1400, 4))[...] = X
    return path


INPUTS = {
    "NumPy": lambda path: X,
    "dask": lambda path: da.from_array(X, chunks=((1, 999, 0, 1500, 3000, 500), (1, 2))),
    "Zarr": lambda path: path,
}


def test_bits_tell_what_is_all_but_equal():
    model = FITS["maximum likelihood"](X, scheduler="synchronous")
    names = {"weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_", "lower_bound_", "history_"}
    more = {"lower_bounds_", "converged_", "n_iter_", "n_passes_", "n_features_in_", "environment_"}
    before = bits(model)
    assert before.keys() == names | more
    model.means_[0, 0] = np.nextafter(model.means_[0, 0], np.inf)
    model.lower_bounds_[-1] = np.nextafter(model.lower_bounds_[-1], 0)
    after = bits(model)
    assert {name for name in before if before[name] != after[name]} == {"means_", "lower_bounds_"}
    assert bits(0.0) != bits(-0.0)
    assert bits(np.zeros(2)) != bits(np.zeros(2, np.float32))


# ---- schedulers, workers, inputs


SCHEDULERS = {
    "synchronous": ("synchronous", None),
    "one thread": ("threads", 1),
    "two threads": ("threads", 2),
    "four threads": ("threads", 4),
}


@pytest.mark.covering
@pytest.mark.parametrize("scheduler", mostly_slow(SCHEDULERS, "synchronous", "two threads"))
@pytest.mark.parametrize("name", FITS)
def test_schedulers_in_this_process(name, scheduler, stores, expected):
    chosen, n_threads = SCHEDULERS[scheduler]
    with dask.config.set(num_workers=n_threads):
        for kind, rows in INPUTS.items():
            assert bits(FITS[name](rows(stores), scheduler=chosen)) == expected[name], kind


@contextlib.contextmanager
def worker_processes(n_workers, **options):
    options = {"threads_per_worker": 1, "host": "127.0.0.1", "memory_limit": None} | options
    with (
        distributed.LocalCluster(n_workers=n_workers, dashboard_address="127.0.0.1:0", **options) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield cluster, client


def check_on_workers(client, names, kinds, stores, expected):
    for name, kind in itertools.product(names, kinds):
        assert bits(FITS[name](INPUTS[kind](stores), scheduler=client)) == expected[name], (name, kind)


def blas_threads():
    return max(pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas")


@pytest.mark.slow
@pytest.mark.cluster
def test_worker_processes(stores, expected, monkeypatch):
    for name in ("OMP", "OPENBLAS", "MKL"):
        monkeypatch.setenv(f"{name}_NUM_THREADS", "4")  # nannies heed it before Dask's configuration
    with worker_processes(1, threads_per_worker=2) as (cluster, client):
        if os.cpu_count() > 1:
            assert max(client.run(blas_threads).values()) > 1
        # so long that BLAS would divide sums over it
        with tuned(longest_leaf=65_536):
            assert bits(weighted(client)) == bits(weighted("synchronous"))
        cluster.scale(2)
        client.wait_for_workers(2)
        check_on_workers(client, ("samples, L-BFGS",), ("Zarr",), stores, expected)


def weighted(scheduler, laid=np.asarray):
    x, weights = laid(overlapping(60_000)), laid(np.random.RandomState(2).rand(60_000))
    return GaussianMixture(3, random_state=0, max_iter=3, tol=0, scheduler=scheduler).fit(x, sample_weight=weights)


def off_the_bounds_of_words(values):
    """The same in memory that begins at an odd address, as that of what came in a message."""
    moved = np.empty(values.nbytes + 1, np.uint8)[1:].view(values.dtype).reshape(values.shape)
    moved[...] = values
    assert not moved.flags.aligned
    return moved


def test_where_arrays_lie_in_memory_does_not_matter(tune):
    tune(longest_leaf=65_536)  # longer than what NumPy moves at a time
    assert bits(weighted("synchronous", off_the_bounds_of_words)) == bits(weighted("synchronous"))


@pytest.mark.slow
@pytest.mark.cluster
def test_one_two_and_four_worker_processes(stores, expected):
    with worker_processes(1) as (cluster, client):
        for n_workers in (1, 2, 4):
            cluster.scale(n_workers)
            client.wait_for_workers(n_workers)
            check_on_workers(client, FITS, INPUTS, stores, expected)


# ---- how the work is divided


@st.composite
def lengths(draw):
    """Chunk lengths that add up to N: uneven, of single rows, empty."""
    cuts = draw(st.lists(st.integers(0, N), max_size=8))
    cuts += [c + 1 for c in cuts if c < N and draw(st.booleans())]
    return tuple(b - a for a, b in itertools.pairwise([0, *sorted(cuts), N]))


@given(
    lengths(),
    st.sampled_from(["NumPy", "dask", "Zarr"]),
    st.sampled_from(["synchronous", "threads"]),
    st.sampled_from([0.0, 1e-6, 1e-5, 1e-4, 1.0]),
    st.integers(1, 12),
    st.integers(1, 3 * N),
    st.integers(2, 9),
    st.sampled_from([2, 5, 50_000]),
    st.sampled_from(sorted(FITS)),
)
@quick
def test_any_division_of_the_work(stores, expected, chunks, kind, scheduler, shortest, tasks, slab, arity, wave, name):
    with tuned(
        shortest_task=shortest,
        longest_task=2 * shortest,
        tasks_per_thread=tasks,
        slab_bytes=slab * D * 8,
        arity=arity,
        wave_tasks=wave,
    ):
        x = da.from_array(X, chunks=(chunks, D)) if kind == "dask" else INPUTS[kind](stores)
        assert bits(FITS[name](x, scheduler=scheduler)) == expected[name]


def test_it_is_divided_as_asked(tune):
    """What makes the test above able to fail: its constants decide how many tasks there are."""
    batches = set()

    def heard(event):
        batches.add(getattr(event, "n_batches", None))

    for shortest, tasks in ((0.0, 2), (0.0, 12), (1.0, 2)):
        tune(shortest_task=shortest, longest_task=2 * shortest + 1, tasks_per_thread=tasks)
        GaussianMixture(2, random_state=0, scheduler="synchronous", max_iter=1, callbacks=[heard]).fit(X)
    assert len(batches - {None}) == 3


@pytest.mark.slow
@given(lengths(), st.sampled_from(["dask", "Zarr"]), st.sampled_from(sorted(FITS)), st.integers(1, N))
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
def test_any_chunks(stores, expected, tmp_path_factory, chunks, kind, name, rows):
    if kind == "dask":
        x = da.from_array(X, chunks=(chunks, D))
    else:
        x = zarr.create_array({}, shape=X.shape, dtype=X.dtype, chunks=(rows, D))
        x[...] = X
    assert bits(FITS[name](x)) == expected[name]


def test_a_candidate_is_what_it_is_alone():
    """Whatever is beside it: kernels of other sizes, and the moments that tied covariances share."""
    found = select(X, (1, 3, 30), ("tied", "full"), estimator=GaussianMixture(random_state=0, max_iter=3, tol=0))
    for (n_components, kind), model in found.models.items():
        alone = GaussianMixture(n_components, covariance_type=kind, random_state=0, max_iter=3, tol=0).fit(X)
        assert bits(model) == bits(alone), (n_components, kind)


# ---- processes, hash seeds, threads of BLAS


def elsewhere(program, *environs):
    """What a program prints, as JSON, in new processes with these environment variables, one for each."""
    with ThreadPoolExecutor(len(environs)) as pool:
        return list(pool.map(lambda variables: _elsewhere(program, variables), environs))


def _elsewhere(program, variables):
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | variables, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# Of rows in one long leaf, weighted, where sums that BLAS splits among threads round differently.
PROCESS = """
import json, sys, warnings
import numpy as np, threadpoolctl
from daskgmm import BayesianGaussianMixture, GaussianMixture
warnings.simplefilter("ignore")
rng = np.random.RandomState(0)
x = rng.normal(size=(40_000, 3)) + 3 * rng.normal(size=(4, 3))[rng.randint(4, size=40_000)]
models = [
    GaussianMixture(4, random_state=0, max_iter=3, tol=0),
    GaussianMixture(4, covariance_type="diag", random_state=0, max_iter=3, tol=0, init_size=5000, acceleration="lbfgs"),
    BayesianGaussianMixture(n_components=4, random_state=0, max_iter=3, tol=0),
]
found, environments = [], []
for model in models:
    model.fit(x, sample_weight=rng.rand(len(x)))
    told = "history_", "origin_", "environment_"
    arrays = {name: value for name, value in vars(model).items() if name.endswith("_") and name not in told}
    found.append({name: np.asarray(value).tobytes().hex() for name, value in arrays.items()})
    environments.append(model.environment_)
threads = max(pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas")
print(json.dumps({"bits": found, "environments": environments, "threads": threads, "hash": hash("daskgmm")}))
"""


@pytest.mark.slow
def test_processes_with_other_hash_seeds_and_threads_of_blas():
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    four = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "4") | {"PYTHONHASHSEED": "7"}
    first, second = elsewhere(PROCESS, one, four)
    assert first["threads"] == 1
    assert second["threads"] > 1 or os.cpu_count() == 1
    assert first["hash"] != second["hash"]
    assert first["environments"] == second["environments"]
    assert first["bits"] == second["bits"]


def openmp_threads():
    return {pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "openmp"}


def test_a_fit_beside_another_has_one_thread_of_openmp_too():
    """Whose limit is a thread's own; scikit-learn's k-means uses it."""
    import sklearn.cluster  # noqa: F401  # loads it

    found = []

    def fit():
        with threadpoolctl.threadpool_limits(4, user_api="openmp"):
            found.append(openmp_threads())
            with blas.one_blas_thread():
                found.append(openmp_threads())
            found.append(openmp_threads())

    with blas.one_blas_thread():
        thread = threading.Thread(target=fit)
        thread.start()
        thread.join()
    if found[0] != {4}:
        pytest.skip(f"OpenMP cannot be told to use four threads here: {found[0]}")
    assert found == [{4}, {1}, {4}]


# ---- what the bits depend on


ENVIRONMENT = "import json, daskgmm.engine.environment as e; print(json.dumps(e.environment()))"
OTHER_BLAS = {"OPENBLAS_CORETYPE": "Prescott"}
OTHER_LOOPS = {"NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX2 AVX512_SKX AVX512_ICL"}


def test_an_environment_tells_which_code_runs():
    told = environment()
    same, *others = elsewhere(ENVIRONMENT, {}, OTHER_BLAS, OTHER_LOOPS)
    assert same == told
    assert all(isinstance(value, str) and value for value in told.values())
    # Libraries and processors that know one kind of kernels only may be unmoved.
    for other, field in zip(others, ("blas", "cpu_features"), strict=True):
        assert set(differences(told, other)) <= {field}
    told["blas"] = "changed by a caller"
    assert environment() == same


@pytest.mark.skipif("SkylakeX" not in environment()["blas"], reason="no OpenBLAS for several kinds of processors")
def test_an_environment_tells_which_kernels_of_blas_run():
    (other,) = elsewhere(ENVIRONMENT, OTHER_BLAS)
    assert "SkylakeX" not in differences(environment(), other)["blas"][1]


@pytest.mark.slow
def test_other_kernels_of_blas_change_the_last_bits_and_no_more():
    ours, theirs = elsewhere(PROCESS, {}, OTHER_BLAS)
    if ours["environments"] == theirs["environments"]:
        pytest.skip("this BLAS has one kind of kernels on this machine")
    assert ours["bits"] != theirs["bits"]
    for name in ("means_", "weights_", "lower_bounds_"):
        one, other = (np.frombuffer(bytes.fromhex(found["bits"][0][name])) for found in (ours, theirs))
        np.testing.assert_allclose(one, other, rtol=1e-11)


@pytest.mark.parametrize(
    ("path", "used"),
    [
        ("/env/lib/python3.11/site-packages/numpy.libs/libscipy_openblas64_.so", True),
        ("/env/lib/python3.11/site-packages/scipy/.dylibs/libscipy_openblas.dylib", True),
        ("/env/lib/libopenblas.so.0", True),
        ("/env/lib/python3.11/site-packages/torch/lib/libopenblas.so", False),
    ],
)
def test_libraries_of_other_packages_do_not_count(path, used, monkeypatch):
    pool = {"user_api": "blas", "internal_api": "openblas", "version": "9.9", "architecture": "VAX", "filepath": path}
    monkeypatch.setattr(engine_environment, "threadpool_info", lambda: [pool])
    assert (engine_environment._blas() == ["openblas 9.9 VAX"]) is used


def test_the_name_of_a_processor_alone_changes_nothing():
    one, other = environment(), environment() | {"cpu": "another"}
    assert differences(one, other) == {}
    assert differences(one, other | {"blas": "x"}) == {"blas": (one["blas"], "x")}
    assert differences({}, {"loops": "y"}) == {"loops": ("", "y")}


def test_a_model_tells_what_made_its_loops(monkeypatch):
    compiled = pytest.importorskip("daskgmm.core.compiled")
    from daskgmm.core import kernel_choice

    plain = GaussianMixture(2, random_state=0, max_iter=1).fit(X)
    assert plain.environment_ == environment() | {"loops": "numpy"}
    monkeypatch.setattr(kernel_choice, "_LOADING_SECONDS", 0)
    fast = GaussianMixture(2, random_state=0, max_iter=1).fit(X)
    assert fast.environment_["loops"] == compiled.CompiledBackend().made_by
    with dask.config.set({"daskgmm.compiled": False}):
        assert bits(GaussianMixture(2, random_state=0, max_iter=1).fit(X)) == bits(plain)


# ---- workers that are not alike


@contextlib.contextmanager
def unlike_workers(*variables):
    """A worker process for each, with these environment variables."""
    workers = {
        i: {"cls": distributed.Nanny, "options": {"nthreads": 1, "env": env, "host": "127.0.0.1"}}
        for i, env in enumerate(variables)
    }
    scheduler = {
        "cls": distributed.Scheduler,
        "options": {"host": "127.0.0.1", "port": 0, "dashboard_address": "127.0.0.1:0"},
    }
    with (
        distributed.SpecCluster(workers=workers, scheduler=scheduler) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        client.wait_for_workers(len(variables))
        yield client


@pytest.mark.slow
@pytest.mark.cluster
def test_workers_that_differ_are_told(stores):
    with unlike_workers({}, OTHER_BLAS) as client:
        kernels = {address: told["blas"] for address, told in client.run(environment).items()}
        usual = [address for address, found in kernels.items() if found == environment()["blas"]]
        if len(usual) == 2:
            pytest.skip("this BLAS has one kind of kernels on this machine")
        (other,) = set(kernels.values()) - {environment()["blas"]}
        with pytest.warns(ReproducibilityWarning, match=rf"processors \(1 of 2 with blas {other}; the others as this"):
            model = FITS["maximum likelihood"](stores, scheduler=client)
        assert model.environment_ == environment() | {"loops": "numpy", "workers": f"1 of 2 with blas {other}"}
        with pytest.warns(ReproducibilityWarning):
            model.set_params(scheduler=client).score(stores)
        client.retire_workers(usual)
        alike = FITS["maximum likelihood"](stores, scheduler=client)  # warnings are errors
    assert alike.environment_["workers"] == f"1 of 1 with blas {other}"


def test_a_process_tells_once_and_only_to_others():
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        foreign = EnvironmentReport("someone", driver="another process", expected=environment() | {"blas": "x"})
        for report in (foreign, foreign, EnvironmentReport("nobody")):
            client.submit(report.send, pure=False).result()
        with run.DaskEngine(client) as engine:
            told, untold = (engine.scheduler.events(TOPIC, name) for name in ("someone", "nobody"))
    assert [event["receiver"] for event in told] == ["someone"]
    assert list(by_worker(told).values()) == [{"blas": environment()["blas"]}]
    assert untold == []
    foreign.send()  # where there is no worker, nobody is told
