"""Long runs: what a fit leaves with a cluster, that the soak runs, and that it notices what it is there for."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import dask.array as da
import numpy as np
import pytest

from daskgmm import GaussianMixture
from daskgmm.events import BatchFinished

distributed = pytest.importorskip("distributed")
psutil = pytest.importorskip("psutil")

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

from soaking.judge import Run, growth, judge, low_water  # noqa: E402
from soaking.watch import Sample, files_below, processes_below  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
MIB = 1 << 20


# ---- what a fit leaves


@pytest.fixture(scope="module")
def client():
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0") as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


def topics(dask_scheduler=None):
    """Names of all that the scheduler keeps, and who hears each; Dask's own are named after workers and clients."""
    return {
        name: sorted(topic.subscribers)
        for name, topic in dask_scheduler._broker._topics.items()
        if "://" not in name and not name.startswith("Client-")
    }


def heard_rows(scheduler, n_rows=6000):
    """Rows of the batches that a fit of two passes and a survey has told of."""
    rows = da.random.default_rng(0).normal(size=(n_rows, 2), chunks=(n_rows // 6, 2))
    seen = []
    GaussianMixture(2, max_iter=1, random_state=0, scheduler=scheduler, callbacks=[seen.append]).fit(rows)
    return sum(event.n_rows for event in seen if isinstance(event, BatchFinished))


@pytest.mark.slow
@pytest.mark.cluster
def test_fits_that_tell_what_they_do_leave_no_topics_behind(client):
    address = client.scheduler.address
    assert heard_rows(client) == heard_rows(address) > 0  # the second by way of a client of its own
    before, handlers = client.run_on_scheduler(topics), set(client._event_handlers)
    for _ in range(3):
        assert heard_rows(client) == heard_rows(address) > 0
    after = client.run_on_scheduler(topics)
    assert after.keys() == before.keys()
    assert set(client._event_handlers) == handlers
    ours = {name: hearers for name, hearers in after.items() if name.startswith("daskgmm")}
    assert len(ours) == 2  # what tasks report, and what workers tell of themselves
    assert not any(ours.values())


@pytest.mark.slow
@pytest.mark.cluster
def test_fits_that_share_a_client_hear_each_their_own(client):
    """One ends while the other goes on, which is no reason for it to hear no more."""
    expected = {n: heard_rows(client, n) for n in (600, 60_000)}
    heard = {}

    def fit(n_rows):
        heard[n_rows] = heard_rows(client, n_rows)

    threads = [threading.Thread(target=fit, args=(n,)) for n in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard == expected


# ---- the verdict


def samples(slope=0.0, deaths=3):
    """Ten minutes; resident sets that vary by a few MiB and grow by so many an hour."""
    rng = np.random.default_rng(0)
    return [
        Sample(t, *(int((300 + slope * t / 3600 + rng.normal()) * MIB) for _ in range(2)), [], deaths)
        for t in range(0, 600, 2)
    ]


NOTHING_LEFT = {"outputs": [], "processes": []}
WELL = {"runs": [Run("fit", 1.0, None)], "left": NOTHING_LEFT}
LEVEL = [{"scheduler: tasks": 0, "driver: threads": 20 + 5 * (i % 3 == 0)} for i in range(12)]
PILING = [{"scheduler: tasks": 0, "driver: threads": 20 + i // 2} for i in range(12)]

JUDGED = {
    "all is well": (WELL, samples(), LEVEL, []),
    "memory grows as slowly as it may": (WELL, samples(50), LEVEL, []),
    "memory grows": (WELL, samples(120), LEVEL, ["resident set of driver: grows by", "resident set of spared: grows"]),
    "memory shrinks": (WELL, samples(-500), LEVEL, []),
    "threads pile up": (WELL, samples(), PILING, ["driver: threads: 23, and 22 before|driver: threads"]),
    "tasks stay": (
        WELL,
        samples(),
        [c | {"scheduler: tasks": 1} for c in LEVEL],
        ["scheduler: tasks: 1, and 1 before"],
    ),
    "bits differ": ({**WELL, "runs": [Run("fit", 1.0, "differs")]}, samples(), LEVEL, ["fit: differs"]),
    "a file stays": (
        {**WELL, "left": {**NOTHING_LEFT, "outputs": [".x.0.partial"]}},
        samples(),
        LEVEL,
        ["outputs: 1 left, such as .x.0.partial"],
    ),
    "nobody died": (WELL, samples(deaths=0), LEVEL, ["no worker died"]),
}


@pytest.mark.parametrize("case", JUDGED)
def test_the_verdict(case):
    result, sampled, censuses, expected = JUDGED[case]
    found = judge(result, sampled, censuses, 60)
    assert len(found) == len(expected), found
    for line, begin in zip(found, expected, strict=True):
        assert any(line.startswith(b) for b in begin.split("|"))


def test_growth_is_that_after_the_warm_up():
    """Half of all memory is taken in the first minutes; a peak of a few samples is no growth."""
    sampled = [
        Sample(
            s.seconds, s.driver // (2 if s.seconds < 290 else 1), s.spared * (2 if 400 < s.seconds < 420 else 1), [], 1
        )
        for s in samples(30)
    ]
    for of in ("driver", "spared"):
        grown = growth(sampled, of)
        assert abs(grown.slope - 30) < 8
        assert abs(grown.stop - grown.start - grown.slope * 300 / 3600) < 0.1


def test_a_short_run_is_judged_by_its_last_rounds():
    assert low_water([{"x": 9}, {"x": 9}, {"x": 5}, {"x": 3}])["x"] == (5, 3)
    assert low_water([{"x": 9}])["x"] == (9, 9)


def test_what_is_left_is_seen(tmp_path):
    (tmp_path / ".out.zarr.0.partial").mkdir()
    assert files_below(tmp_path) == [".out.zarr.0.partial"]
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert any("input()" in line for line in processes_below())
        process.communicate(b"\n")
    assert not any("input()" in line for line in processes_below())


# ---- the run


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_soak(tmp_path):
    """About a minute, in which memory does not settle: everything else is judged."""
    command = [sys.executable, str(BENCHMARKS / "soak.py"), "--minutes", "0.7", "--life", "6s", "--rows", "20000"]
    options = ["--limit", "1e9", "--folder", str(tmp_path), "--plot", str(tmp_path / "rss.png"), "--json"]
    begin = time.monotonic()
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    report = json.loads(done.stdout)
    assert {"processor", "cores", "versions"} <= report["machine"].keys()
    result = report["result"]
    assert result["found"] == []
    runs = [run["job"] for run in result["runs"]]
    assert len(set(runs)) == 9
    assert min(runs.count(job) for job in runs) >= 2
    assert 0 < result["samples"][-1]["seconds"] <= time.monotonic() - begin
    assert result["samples"][-1]["deaths"] > 0
    assert (tmp_path / "rss.png").stat().st_size > 10_000
    assert [path.name for path in tmp_path.iterdir()] == ["rss.png"]
