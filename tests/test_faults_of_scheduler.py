"""Schedulers that are killed, stopped, replaced or gone for good: the same bits, or an error in good time."""

import contextlib
import gc
import os
import queue
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import dask
import dask.array as da
import distributed
import pytest
import yaml
from clusters import (
    ROWS,
    Strike,
    X,
    assert_same_bits,
    check_events,
    check_results,
    gated,
    model,
    processes,
    settle,
    small_tasks,
    wait_until,
)

from daskgmm import select
from daskgmm.engine.connection import Connection
from daskgmm.errors import SchedulerError
from daskgmm.events import BatchFinished, EngineClosed, IterationFinished, PassStarted
from daskgmm.results import write_predictions
from daskgmm.tuning import tuned

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore::daskgmm.errors.InterruptedWarning"),
    # A client of distributed that loses its scheduler while it connects forgets a socket.
    pytest.mark.filterwarnings("ignore:(?s).*unclosed .*socket:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.timeout(240),
]


@pytest.fixture(autouse=True)
def forgotten_sockets():
    """They are found here, and not in the test of somebody else."""
    yield
    gc.collect()


@pytest.fixture(scope="module", autouse=True)
def several_tasks():
    with small_tasks(), tuned(look_seconds=0.2):
        yield


@pytest.fixture(scope="module")
def expected():
    return model().fit(X)


@pytest.fixture
def cluster(tmp_path_factory):
    with processes(tmp_path_factory.mktemp("cluster"), 2) as cluster:
        yield cluster


@pytest.fixture
def gate(tmp_path):
    return tmp_path / "closed"


def rows():
    return da.from_array(X, chunks=(ROWS, 3))


def replace_scheduler(cluster):
    cluster.kill_scheduler()
    cluster.restart(1)


# ---- it comes back


MOMENTS = {
    "before the survey": (PassStarted, "survey", 1),
    "in the survey": (BatchFinished, "survey", 3),
    "in an E-step": (BatchFinished, "estep", 3),
    "between E-steps": (IterationFinished, "", 1),
    "in the last E-step": (BatchFinished, "estep", 20),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_scheduler_that_is_replaced_changes_no_bit(moment, cluster, gate, expected, caplog):
    strike = Strike(MOMENTS[moment], lambda: replace_scheduler(cluster), gate)
    fitted = model(scheduler=cluster.address, callbacks=[strike]).fit(gated(gate))
    assert strike.done
    assert_same_bits(fitted, expected)
    assert check_events(strike.heard) == fitted.n_passes_ == 3
    assert f"The Dask scheduler {cluster.address} went away" in caplog.text
    assert f"{cluster.address} is back" in caplog.text


@pytest.mark.slow
def test_a_users_client_that_reconnects_stays_in_use(cluster, gate, expected):
    with cluster.connect(2) as client:
        strike = Strike((BatchFinished, "estep", 3), lambda: replace_scheduler(cluster), gate)
        assert_same_bits(model(scheduler=client, callbacks=[strike]).fit(gated(gate)), expected)
        assert check_events(strike.heard) == 3
        wait_until(lambda: client.status == "running")
        assert_same_bits(model(scheduler=client).fit(rows()), expected)
        assert client.submit(sum, [1, 2]).result(60) == 3


@pytest.mark.slow
def test_a_users_client_that_closes_is_replaced(cluster, gate, expected):
    """As distributed's do when the scheduler stays away for longer than their timeout."""
    client = cluster.connect(2, timeout="500ms")

    def replace_late():
        cluster.kill_scheduler()
        wait_until(lambda: client.status == "closed")
        cluster.restart(1)

    strike = Strike((BatchFinished, "estep", 3), replace_late, gate)
    fitted = model(scheduler=client, callbacks=[strike]).fit(gated(gate))
    assert strike.done
    assert_same_bits(fitted, expected)
    assert check_events(strike.heard) == 3
    with pytest.raises(SchedulerError, match="in use is closed"):
        fitted.fit(rows())


@pytest.mark.slow
def test_a_scheduler_that_comes_back_late_is_waited_for(cluster, gate, expected):
    def come_back():
        wait_until(lambda: not cluster.scheduler.is_alive())
        time.sleep(1.5)  # longer than one attempt to connect takes to be refused
        cluster.restart(1)

    late = threading.Thread(target=come_back)
    strike = Strike((BatchFinished, "estep", 3), lambda: (late.start(), cluster.kill_scheduler()), gate)
    fitted = model(scheduler=cluster.address, callbacks=[strike]).fit(gated(gate))
    late.join()
    assert_same_bits(fitted, expected)


@contextlib.contextmanager
def closed_after_tls(client):
    """A user's client, which looks for its scheduler by itself: closing raises what Tornado made of that at times."""
    try:
        yield client
    finally:
        try:
            client.close()
        except ValueError as error:
            if "cannot convert to SSL" not in str(error):
                raise
            client.status = "closed"  # its finaliser would close it once more


@pytest.mark.slow
def test_encrypted_schedulers_are_found_again_with_the_same_security(tmp_path, gate, expected):
    script = Path(__file__).parents[1] / "cluster_configs" / "tls" / "make_certificates.sh"
    subprocess.run(["sh", script, tmp_path / "tls", "localhost"], check=True, capture_output=True)
    made = yaml.safe_load((tmp_path / "tls" / "tls.yaml").read_text())["distributed"]
    with dask.config.set({"distributed": dask.config.merge(dask.config.get("distributed"), made)}):
        security = distributed.Security()
    with processes(tmp_path, 1, security=security) as cluster, closed_after_tls(cluster.connect(1)) as client:
        strike = Strike((BatchFinished, "estep", 3), lambda: replace_scheduler(cluster), gate)
        assert_same_bits(model(scheduler=client, callbacks=[strike]).fit(gated(gate)), expected)
        assert strike.done


@pytest.mark.slow
def test_scores_results_counts_and_selections_survive_their_scheduler(cluster, gate, tmp_path, expected):
    strikes = []

    def during(label):
        strikes.append(Strike((BatchFinished, label, 2), lambda: replace_scheduler(cluster), gate))
        return [strikes[-1]]

    x = gated(gate)
    fitted = model(scheduler=cluster.address).fit(rows())
    assert fitted.set_params(callbacks=during("score")).score(x) == expected.score(X)
    fitted.set_params(callbacks=None)
    write_predictions(fitted, x, tmp_path / "out.zarr", probabilities=True, callbacks=during("predict"))
    check_results(tmp_path / "out.zarr", expected, tmp_path)
    estimator = model()
    found = select(x, [1, 3], estimator=estimator, scheduler=cluster.address, callbacks=during("estep"))
    assert_same_bits(found.models[3, "full"], expected)
    assert all(strike.done for strike in strikes)


# ---- it does not


@pytest.fixture
def impatient():
    with dask.config.set({"daskgmm.timeout": "2s"}):
        yield


def ends_within(seconds, call):
    """What a call raises. It runs in a thread, so that a test of hanging does not hang."""
    raised = []

    def run_it():
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run_it, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it hangs"
    (error,) = raised
    return error


@pytest.mark.slow
@pytest.mark.parametrize("own", [True, False])
def test_a_scheduler_that_is_gone_for_good_is_told(own, cluster, gate, impatient):
    with cluster.connect(2, timeout="1s") as client:
        strike = Strike((BatchFinished, "estep", 3), cluster.kill_scheduler, gate)
        estimator = model(scheduler=cluster.address if own else client, callbacks=[strike])
        error = ends_within(60, lambda: estimator.fit(gated(gate)))
    assert isinstance(error, SchedulerError)
    assert f"{cluster.address} went away, and did not come back within 2 s" in str(error)
    assert strike.heard[-1] == EngineClosed(failed=True)


@pytest.mark.slow
def test_a_scheduler_that_comes_back_without_workers_is_told(cluster, gate, impatient):
    def replace_without_workers():
        cluster.kill_scheduler()
        cluster.restart(0)

    strike = Strike((BatchFinished, "estep", 3), replace_without_workers, gate)
    error = ends_within(60, lambda: model(scheduler=cluster.address, callbacks=[strike]).fit(gated(gate)))
    assert isinstance(error, SchedulerError)
    assert "has no workers after 2 s" in str(error)


@pytest.mark.parametrize("moment", [pytest.param("before the survey", marks=pytest.mark.slow), "in an E-step"])
@pytest.mark.parametrize("own", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_a_scheduler_that_is_stopped_is_told(own, moment, cluster, gate, impatient):
    """It holds its connections and answers nothing, as a machine does that swaps or whose network is gone."""
    with cluster.connect(2, timeout="1s") as client:
        strike = Strike(MOMENTS[moment], lambda: os.kill(cluster.scheduler.pid, signal.SIGSTOP), gate)
        estimator = model(scheduler=cluster.address if own else client, callbacks=[strike])
        error = ends_within(60, lambda: estimator.fit(gated(gate)))
        os.kill(cluster.scheduler.pid, signal.SIGCONT)
    assert isinstance(error, SchedulerError)
    assert "did not come back within 2 s" in str(error)


@pytest.mark.slow
def test_a_scheduler_that_goes_away_again_and_again_is_told(cluster, gate, expected):
    def strike(event):
        if isinstance(event, PassStarted) and event.label == "estep":
            gate.touch()
            replacing.append(threading.Thread(target=replace_always))
            replacing[-1].start()

    def replace_always():
        while not ended.is_set():
            replace_scheduler(cluster)
            with cluster.connect(1):
                pass
            ended.wait(0.3)

    replacing, ended = [], threading.Event()
    error = ends_within(200, lambda: model(scheduler=cluster.address, callbacks=[strike]).fit(gated(gate)))
    ended.set()
    for thread in replacing:
        thread.join()
    assert isinstance(error, SchedulerError)
    assert "went away 4 times during one pass" in str(error)


async def forget_all_but(client, dask_scheduler):
    """Of those that wait for something."""
    for other in [other for other in dask_scheduler.clients.values() if other.wants_what]:
        if other.client_key != client:
            dask_scheduler.remove_client(other.client_key, stimulus_id="a test")


@pytest.mark.slow
def test_clients_that_are_forgotten_again_and_again_are_told(cluster, gate):
    """To a fit it is all one whether its scheduler has lost everything or only what it was asked for."""
    ended = threading.Event()

    def strike():
        while not ended.wait(0.05):
            client.run_on_scheduler(forget_all_but, client.id)

    gate.touch()  # the first pass does not come to its end
    with cluster.connect(2) as client:
        striking = threading.Thread(target=strike)
        striking.start()
        try:
            error = ends_within(60, lambda: model(scheduler=cluster.address).fit(gated(gate)))
        finally:
            ended.set()
            striking.join()
    assert isinstance(error, SchedulerError), error
    assert re.search(r"went away 4 times during one pass \(it (does not know any more|has lost the rows)", str(error))


def shut_down(cluster):
    """Begin to close a cluster whose worker waits at the gate, so far that the worker runs no other task."""
    (worker,) = cluster.workers.values()
    threading.Thread(target=cluster.close).start()
    wait_until(lambda: worker.status in (distributed.Status.closing, distributed.Status.closed))


def test_a_cluster_that_is_shut_down_is_told_at_once(gate):
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0", memory_limit=0
    ) as local, distributed.Client(local, set_as_default=False) as client:  # fmt: skip
        strike = Strike((BatchFinished, "estep", 3), lambda: shut_down(local), gate)
        error = ends_within(30, lambda: model(scheduler=client, callbacks=[strike]).fit(gated(gate)))
    assert isinstance(error, SchedulerError)
    assert "was shut down with its cluster" in str(error)


def forget(client, dask_scheduler):
    dask_scheduler.remove_client(client, stimulus_id="a test")


def test_a_client_that_the_scheduler_has_forgotten_is_replaced(cluster, gate, expected):
    """It goes on to be "running", and never hears of its tasks."""
    with cluster.connect(2) as client:
        strike = Strike(MOMENTS["in an E-step"], lambda: client.run_on_scheduler(forget, client.id), gate)
        assert_same_bits(model(scheduler=client, callbacks=[strike]).fit(gated(gate)), expected)
        assert strike.done
        assert check_events(strike.heard) == 3


def test_a_client_that_was_forgotten_between_passes_is_replaced(cluster, expected):
    """The scheduler refuses its next graph."""
    with cluster.connect(2) as client:

        def strike(event):
            if isinstance(event, IterationFinished):
                client.run_on_scheduler(forget, client.id)

        assert_same_bits(model(scheduler=client, callbacks=[strike]).fit(rows()), expected)


def let_go(client, dask_scheduler):
    """What other clients than that one want, as if they wanted it no more."""
    for other in [other for name, other in dask_scheduler.clients.items() if name != client]:
        keys = [task.key for task in other.wants_what]
        dask_scheduler.client_releases_keys(keys=keys, client=other.client_key, stimulus_id="a test")


def test_a_task_that_the_scheduler_has_forgotten_is_computed_anew(cluster, gate, expected, monkeypatch):
    """Its client is known all the time, and hears nothing."""
    looks = queue.Queue()
    knows = Connection.knows
    monkeypatch.setattr(Connection, "knows", lambda self, *keys: looks.put(known := knows(self, *keys)) or known)
    gate.touch()
    with cluster.connect(2) as client:

        def strike():
            while not looks.get(timeout=60):
                pass
            client.run_on_scheduler(let_go, client.id)
            gate.unlink()

        striking = threading.Thread(target=strike)
        striking.start()
        assert_same_bits(model(scheduler=cluster.address).fit(gated(gate)), expected)
        striking.join()


@pytest.mark.slow
def test_a_graph_that_does_not_arrive_is_told(cluster, monkeypatch):
    send = distributed.Client._send_to_scheduler
    monkeypatch.setattr(
        distributed.Client,
        "_send_to_scheduler",
        lambda self, message: None if message["op"] == "update-graph" else send(self, message),
    )
    with cluster.connect(2), dask.config.set({"daskgmm.timeout": "2s"}):
        error = ends_within(120, lambda: model(scheduler=cluster.address).fit(da.from_array(X, chunks=(ROWS, 3))))
    assert isinstance(error, SchedulerError), error
    assert "went away 4 times during one pass" in str(error)


def test_persisted_rows_that_went_with_the_scheduler_are_told(cluster, gate, impatient):
    with cluster.connect(2) as client:
        persisted = client.persist(gated(gate))
        settle(persisted)
        strike = Strike((IterationFinished, "", 1), lambda: replace_scheduler(cluster), gate)
        error = ends_within(120, lambda: model(scheduler=client, callbacks=[strike]).fit(persisted))
    assert isinstance(error, SchedulerError), error
    assert "Data that were persisted or scattered on the cluster are gone" in str(error)


def test_the_client_is_of_use_in_callbacks(cluster, expected):
    """Reports of tasks are handed over where the fit waits, not in the thread that the client needs to answer."""
    with cluster.connect(2) as client:
        answers = []

        def ask(event):
            if isinstance(event, BatchFinished):
                answers.append(client.submit(sum, [1, len(answers)], pure=False).result(60))

        assert_same_bits(model(scheduler=client, callbacks=[ask]).fit(rows()), expected)
        assert len(answers) == 3 * 16


def test_errors_of_callbacks_stay_what_they_are(cluster):
    with cluster.connect(2) as client:

        def fail(event):
            if isinstance(event, BatchFinished):
                raise BrokenPipeError("the terminal was closed")

        with pytest.raises(BrokenPipeError, match="terminal"):
            model(scheduler=client, callbacks=[fail]).fit(rows())
        assert client.status == "running"
