"""The embedded cluster is this process's alone: it listens on loopback, and its files are in a directory of its own."""

import contextlib
import importlib.util
import os
import signal
import stat
import sys
import tempfile
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import psutil
import pytest
import zarr
from programs import read_until, terminal

from daskgmm import GaussianMixture
from daskgmm.engine import cluster
from daskgmm.engine.cluster import embedded_cluster

LOOPBACK = "127.0.0.1"


@contextlib.contextmanager
def temporary_directory(folder):
    """The temporary directory of this process, and of those that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", str(folder))
        yield folder


@pytest.fixture
def temporary(tmp_path):
    with temporary_directory(tmp_path / "temporary") as folder:
        folder.mkdir()
        yield folder


def processes(before=frozenset()):
    """This one and those that it started."""
    return {psutil.Process(), *psutil.Process().children(recursive=True)} - before


def ports(processes):
    """Whatever listens or waits for datagrams."""
    return {c.laddr for process in processes for c in process.net_connections("inet") if not c.raddr}


def surroundings(dask_worker=None, dask_scheduler=None):
    """Where a process looks for modules, whether it would find one that somebody planted, and where it may write."""
    server = dask_worker or dask_scheduler
    return sys.path, importlib.util.find_spec("planted") is not None, server and server.local_directory


# ---- while it is at work


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """A cluster on a machine where somebody else was first to make Dask's scratch directory.

    Dask would spill into it, unpickle from it, and look for modules in it before anywhere else.
    """
    top = tmp_path_factory.mktemp("top")
    (top / "planted").mkdir()
    (top / "planted" / "planted.py").write_text("")
    (top / "temporary").mkdir()
    (top / "temporary" / "dask-scratch-space").symlink_to(top / "planted")
    others, taken = processes() - {psutil.Process()}, ports(processes())
    with temporary_directory(top / "temporary") as folder, embedded_cluster(2, 1, "500MB") as client:
        yield client, folder, processes(others), taken


@pytest.mark.cluster
def test_every_socket_is_on_loopback(attacked):
    """Scheduler, nannies, workers, and what they serve by HTTP."""
    client, _, ours, taken = attacked
    found = ports(ours) - taken
    assert {port.ip for port in found} == {LOOPBACK}
    info = client.scheduler_info(n_workers=-1)
    told = {info["address"], *info["workers"], *(worker["nanny"] for worker in info["workers"].values())}
    assert len(told) == 5, "a scheduler, two workers and their two nannies"
    known = {int(address.rpartition(":")[2]) for address in told}
    known |= {*info["services"].values(), *(p for w in info["workers"].values() for p in w["services"].values())}
    assert {port.port for port in found} == known, "nothing listens that nobody knows of"


@pytest.mark.slow
@pytest.mark.cluster
def test_its_directory_is_private(attacked):
    client, folder, *_ = attacked
    (private,) = folder.glob("daskgmm-cluster-*")
    assert {path.name for path in folder.iterdir()} == {private.name, "dask-scratch-space"}
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    seen = [client.run_on_scheduler(surroundings), *client.run(surroundings).values()]
    assert len(seen) == 3
    for path, _, writable in [*seen, surroundings()]:
        assert all(private in Path(entry).parents for entry in path if str(folder) in entry)
        assert writable is None or private in Path(writable).parents


@pytest.mark.slow
@pytest.mark.cluster
def test_what_another_user_made_first_is_left_alone(attacked):
    client, folder, *_ = attacked
    rows = da.random.default_rng(0).normal(size=(4000, 2), chunks=(1000, 2))
    assert GaussianMixture(2, random_state=0, scheduler=client).fit(rows).converged_
    seen = [surroundings(), client.run_on_scheduler(surroundings), *client.run(surroundings).values()]
    assert [found for _, found, _ in seen] == [False] * 4
    assert os.listdir(folder / "dask-scratch-space") == ["planted.py"]


@pytest.mark.cluster
def test_the_dashboard_is_on_loopback(temporary):
    pytest.importorskip("bokeh", reason="bokeh is not installed")
    others, taken = processes() - {psutil.Process()}, ports(processes())
    with embedded_cluster(1, 1, "500MB", dashboard=True) as client:
        assert client.dashboard_link.startswith(f"http://{LOOPBACK}:")
        assert {port.ip for port in ports(processes(others)) - taken} == {LOOPBACK}


# ---- afterwards


FIT = "fit data.zarr -k 2 --model model.zarr --tol 0 --max-iter 1000000000 --workers 1 --memory-limit 500MB"


@pytest.fixture
def started(tmp_path, temporary):
    """A fit in the terminal that goes on for ever, and has begun to."""
    zarr.create_array(tmp_path / "data.zarr", data=np.random.default_rng(0).normal(size=(4000, 2)), chunks=(1000, 2))
    with terminal(tmp_path, *FIT.split()) as process:
        read_until(process.stderr, "iteration")
        yield process


@pytest.mark.slow
@pytest.mark.cluster
def test_nothing_is_left_after_ctrl_c(started, temporary):
    assert len(list(temporary.iterdir())) == 1
    started.send_signal(signal.SIGINT)
    started.communicate(timeout=60)
    assert started.returncode == 130
    assert list(temporary.iterdir()) == []


@pytest.mark.cluster
@pytest.mark.slow
def test_what_a_killed_process_left_goes_with_the_next_cluster(started, temporary):
    (left,) = temporary.iterdir()
    with cluster._scratch():
        assert left.exists(), "its process is at work"
    workers = psutil.Process(started.pid).children(recursive=True)
    started.kill()
    started.communicate(timeout=60)
    psutil.wait_procs(workers, timeout=60)
    assert left.exists()
    with cluster._scratch():
        assert not left.exists()
    assert list(temporary.iterdir()) == []


# ---- its directory


def test_where_dask_is_configured_to_put_temporary_files(tmp_path, temporary):
    (tmp_path / "elsewhere").mkdir()
    with dask.config.set({"temporary-directory": str(tmp_path / "elsewhere")}), cluster._scratch() as directory:
        assert os.path.dirname(directory) == str(tmp_path / "elsewhere")
    assert list((tmp_path / "elsewhere").iterdir()) == list(temporary.iterdir()) == []


def left(folder, name="daskgmm-cluster-abcdefgh"):
    (folder / name / "inside").mkdir(parents=True)
    return folder / name


def test_left_directories_are_removed(tmp_path):
    gone, kept = left(tmp_path), left(tmp_path, "daskgmm-cluster-of-mine")
    cluster._remove_left(str(tmp_path))
    assert not gone.exists()
    assert kept.exists(), "not such a name"


def test_left_directories_of_others_stay(tmp_path, monkeypatch):
    theirs = left(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    cluster._remove_left(str(tmp_path))
    assert theirs.exists()


def test_links_are_not_followed(tmp_path):
    mine = tmp_path / "mine"
    left(mine)
    (tmp_path / "daskgmm-cluster-abcdefgh").symlink_to(mine / "daskgmm-cluster-abcdefgh")
    cluster._remove_left(str(tmp_path))
    assert (mine / "daskgmm-cluster-abcdefgh" / "inside").exists()


@pytest.mark.parametrize("moment", ["before it is opened", "before it is locked"])
def test_one_that_is_taken_for_a_left_one_is_made_anew(temporary, monkeypatch, moment):
    """Between the system calls that make and hold it another process may look for what was left."""
    hold = cluster.locked

    def meanwhile(directory):
        monkeypatch.setattr(cluster, "locked", hold)
        cluster._remove_left(str(temporary))
        # Once opened, a directory that is gone can be locked all the same.
        return hold(directory) if moment == "before it is opened" else contextlib.nullcontext()

    monkeypatch.setattr(cluster, "locked", meanwhile)
    with cluster._scratch() as directory:
        assert os.path.isdir(directory)
        cluster._remove_left(str(temporary))
        assert os.path.isdir(directory), "it is held"
    assert list(temporary.iterdir()) == []
