"""The plain engine is the specification: Dask's gives the same values to the last bit, however the rows are divided."""

import subprocess
import sys
from dataclasses import replace
from functools import partial

import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daskgmm import BayesianGaussianMixture, GaussianMixture, events
from daskgmm.core.elementwise import PLAIN
from daskgmm.core.kernel_choice import choose_kernel
from daskgmm.core.statistics import Frame
from daskgmm.data.held_out import HeldOut
from daskgmm.data.inputs import as_dataset, resolve
from daskgmm.data.row_arrays import RowWriter
from daskgmm.data.row_sample import NumberedRows, PriorityRows
from daskgmm.engine.plain import PlainEngine
from daskgmm.engine.probe import probe
from daskgmm.engine.run import DaskEngine
from daskgmm.errors import DataChangedError
from daskgmm.fitting.fit import fit_mixtures
from daskgmm.fitting.folds import ExpectationFold, ScoreFold, SplitScoreFold
from daskgmm.fitting.low_density_rows import DensityThreshold, LowDensityRowsFold
from daskgmm.fitting.predictions import KernelOutputs, PredictionFold
from daskgmm.fitting.survey import survey_fold
from daskgmm.fitting.weight_survey import WeightSurveyFold
from daskgmm.names import COVARIANCE_TYPES
from daskgmm.tuning import tuned

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

N, D = 300, 3
LEAF = 16
quick = settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])

_rng = np.random.default_rng(0)
X = _rng.normal(size=(N, D)) + np.array([[0, 0, 0], [4, 1, 0]])[_rng.integers(2, size=N)]
WEIGHTS = _rng.random(N) * (_rng.random(N) > 0.2)
MODELS = {kind: GaussianMixture(2, covariance_type=kind, random_state=0, tol=1e9).fit(X) for kind in COVARIANCE_TYPES}


def bits(value):
    """Something that is equal only to the same bits."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, list | tuple):
        return [bits(item) for item in value]
    if hasattr(value, "__dict__"):
        return {name: bits(item) for name, item in vars(value).items()}
    return value


@st.composite
def chunks(draw):
    """Chunk lengths that add up to N: uneven, of single rows, empty."""
    cuts = draw(st.lists(st.integers(0, N), max_size=8))
    cuts += [cut + 1 for cut in cuts if cut < N and draw(st.booleans())]
    edges = [0, *sorted(cuts), N]
    return tuple(np.diff(edges).tolist())


@st.composite
def lazy(draw, rows):
    """The same rows as a dask array, some of whose tasks are shared, or as a Zarr array; or as they are."""
    kind = draw(st.sampled_from(["dask", "rechunked", "zarr", "shards", "numpy"]))
    columns = rows.shape[1:]
    if kind == "numpy":
        return rows
    if kind in ("dask", "rechunked"):
        array = da.from_array(rows, chunks=(draw(chunks()), *columns))
        return array if kind == "dask" else array.rechunk((draw(chunks()), *columns))
    length = draw(st.integers(7, 100))
    shards = (length * draw(st.integers(1, 4)), *columns) if kind == "shards" else None
    return zarr.create_array({}, data=rows, chunks=(length, *columns), shards=shards)


FOLDS = ("estep", "score", "entropy", "held out", "survey", "survey by weight", "moments", "worst")


def make_fold(name, structure, dataset):
    mixture = MODELS[structure]._parameters()
    kernel = choose_kernel(mixture, Frame.of(X.mean(axis=0), X.std(axis=0)), dataset.dtype, PLAIN)
    survey = partial(survey_fold, dataset, backend=PLAIN)
    makers = {
        "estep": lambda: ExpectationFold(kernel),
        "score": lambda: ScoreFold(kernel),
        "entropy": lambda: ScoreFold(kernel, entropy=True),
        "held out": lambda: SplitScoreFold(kernel, held_out=HeldOut(0.3, 5)),
        "survey": lambda: survey(NumberedRows(np.arange(0, N, 7))),
        "survey by weight": lambda: survey(PriorityRows(50, 3, 1.5)),
        "moments": lambda: survey(NumberedRows(range(40)), structure=mixture.structure),
        "worst": lambda: LowDensityRowsFold(kernel, DensityThreshold(11), np.dtype(np.float64)),
    }
    return makers[name]()


@st.composite
def problems(draw):
    dtype = draw(st.sampled_from(["f8", "f4", ">f8", "i2", "f2"]))
    rows = draw(lazy(np.round(X, 2).astype(dtype)))
    weights = draw(st.one_of(st.none(), lazy(WEIGHTS)))
    folds = draw(st.lists(st.tuples(st.sampled_from(FOLDS), st.sampled_from(sorted(MODELS))), min_size=1, max_size=3))
    return rows, weights, folds


@given(
    problems(),
    st.sampled_from([1, 3, 50_000]),
    st.integers(2, 9),
    st.sampled_from([1, 4, 40]),
    st.integers(1, 2 * N),
    st.sampled_from(["synchronous", "threads"]),
)
@quick
def test_every_division_of_the_work_gives_the_bits_of_the_plain_engine(problem, wave, arity, tasks, slab, scheduler):
    rows, weights, names = problem
    division = {"wave_tasks": wave, "arity": arity, "tasks_per_thread": tasks, "slab_bytes": slab * D * 8}
    with tuned(shortest_leaf=LEAF, longest_leaf=LEAF, shortest_task=0.0):
        dataset, _ = as_dataset(resolve(rows), weights)
        folds = [make_fold(*name, dataset) for name in names]
        with PlainEngine() as plain:
            expected = [plain.run(dataset, fold, "pass") for fold in folds]
        with tuned(**division), DaskEngine(scheduler) as engine:
            found = engine.run_together(dataset, folds, "pass")
            assert probe(engine, dataset) == probe(plain, dataset)
    assert bits(found) == bits(expected)
    assert engine.n_passes == 1


@given(lazy(X), st.sampled_from([1, 50_000]), st.integers(2, 9), st.sampled_from([1, 40]), st.integers(8, N))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_chunks_of_results_are_those_of_the_plain_engine(rows, wave, arity, tasks, chunk_rows):
    """Their leaves are no powers of two, and write what they compute."""
    division = {"wave_tasks": wave, "arity": arity, "tasks_per_thread": tasks, "slab_bytes": 40 * D * 8}
    dataset, _ = as_dataset(resolve(rows))
    mixture = MODELS["full"]._parameters()
    kernel = choose_kernel(mixture, Frame.of(X.mean(axis=0), X.std(axis=0)), dataset.dtype, PLAIN)
    outputs = KernelOutputs.named(kernel, ("labels", "responsibilities"), np.float64)
    fold = replace(PredictionFold.over(dataset, outputs), chunk_rows=chunk_rows)
    written = []
    for tasks in (None, division):
        targets = [
            zarr.create_array({}, shape=(N, *columns), dtype=dtype, chunks=(chunk_rows, *columns), fill_value=-1)
            for columns, dtype in (((), "i8"), ((2,), "f8"))
        ]
        writing = replace(fold, writer=RowWriter(tuple(targets)))
        with tuned(shortest_task=0.0, **(tasks or {})), DaskEngine("threads") if tasks else PlainEngine() as engine:
            assert engine.run(dataset, writing, "predict") == N
        written.append([target[:] for target in targets])
    assert bits(written[0]) == bits(written[1])
    np.testing.assert_array_equal(written[0][0], MODELS["full"].predict(X))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("make", [GaussianMixture, BayesianGaussianMixture])
def test_a_whole_fit_runs_on_it(make, chunked, weighted):
    model = make(n_components=2, random_state=0, max_iter=4, init_size=100)
    weights = WEIGHTS if weighted else None
    rows = da.from_array(X, chunks=(123, D)) if chunked else X
    told, heard = [], []
    expected = model.set_params(callbacks=[told.append]).fit(rows, sample_weight=weights)
    with PlainEngine([heard.append]) as engine:
        dataset, _ = as_dataset(rows, weights)
        (run,) = fit_mixtures(engine, dataset, [model._spec(D)])
    assert run.lower_bounds == expected.lower_bounds_
    assert engine.n_passes == expected.n_passes_
    assert run.environment == expected.environment_
    assert [type(event) for event in heard if not isinstance(event, events.BatchFinished)] == [
        type(event) for event in told if not isinstance(event, events.BatchFinished)
    ]
    assert sum(event.n_rows for event in heard if isinstance(event, events.BatchFinished)) == N * engine.n_passes


def test_it_holds_passes_to_the_first():
    rows = np.abs(X)
    dataset, _ = as_dataset(rows)
    fold = WeightSurveyFold(3, 0)
    with PlainEngine() as engine:
        engine.run(dataset, fold, "pass")
        rows[5] += 1
        with pytest.raises(DataChangedError, match="X: a pass saw other values"):
            engine.run(dataset, fold, "pass")


def test_it_does_without_dask():
    code = "import sys, daskgmm.engine.plain\nprint({'dask', 'distributed'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
