"""Several hosts: a scheduler, two workers and a client, each in a network of its own behind a cable that can be pulled.

The kernel's network namespaces are the hosts. They hang on a bridge in one more namespace, so nothing of this machine's
own network is touched. Cables are pulled and put back by what happens in a pass, never by the clock.
"""

import collections
import json
import os
import random
import select
import shutil
import struct
import subprocess
import sys
import threading
import time
import uuid
from contextlib import ExitStack, contextmanager, suppress

import numpy as np
import pytest
import zarr

import daskgmm
from daskgmm import GaussianMixture

fcntl = pytest.importorskip("fcntl")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:Best performing initialization did not converge"),
]

PATIENCE = 180  # seconds until a process that does not answer is an error
PREFIX = "daskgmm-test-"
ADDRESSES = {"scheduler": "10.77.0.1", "one": "10.77.0.2", "two": "10.77.0.3", "client": "10.77.0.4"}
SCHEDULER = f"tcp://{ADDRESSES['scheduler']}:8786"
SWITCH = "switch"
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000  # linux/if_tun.h
# Without a cache, whose rows tasks follow: nobody would miss a worker that has none of them.
FIT = {"n_components": 8, "random_state": 0, "max_iter": 4, "tol": 0, "init_size": 5000, "cache": None}

# Loaded by the scheduler: it puts a cable back when that happens which a file in FOLDER waits for.
REPAIR = """
import os, pathlib, subprocess
from distributed.diagnostics.plugin import SchedulerPlugin

folder = pathlib.Path(os.environ["FOLDER"])

def repair(event):
    for wanted in folder.glob(f"*.{event}"):
        subprocess.run(["ip", "-n", os.environ["SWITCH"], "link", "set", wanted.stem, "up"], check=True)
        wanted.rename(folder / f"{wanted.stem}.repaired")

class Repair(SchedulerPlugin):
    def transition(self, key, start, finish, *args, **kwargs):
        if finish == "memory":
            repair("task")

    def remove_worker(self, scheduler, worker, **kwargs):
        repair("lost-worker")

    def remove_client(self, scheduler, client):
        repair("lost-client")

def dask_setup(scheduler):
    scheduler.add_plugin(Repair())
"""

# The client: in the second pass of EM, when the first of its tasks has finished, it pulls cables.
CLIENT = """
import faulthandler, json, os, pathlib, subprocess, sys, warnings
import dask
from daskgmm import GaussianMixture
from daskgmm.errors import SchedulerError
from daskgmm.events import BatchFinished, PassStarted

warnings.filterwarnings("ignore", "Best performing initialization did not converge")
warnings.filterwarnings("ignore", "the fit was stopped")
asked = json.loads(sys.argv[1])
faulthandler.dump_traceback_later(asked["patience"], exit=True)  # where it hangs
told = {"passes": 0, "pulled": []}

def listen(event):
    if isinstance(event, PassStarted) and event.label == "estep":
        told["passes"] += 1
        if told["passes"] == 2:
            dask.config.set({"daskgmm.timeout": asked["timeout"]})
    if isinstance(event, BatchFinished) and told["passes"] == 2 and not told["pulled"]:
        for host in asked["pull"]:
            subprocess.run(["ip", "-n", os.environ["SWITCH"], "link", "set", host, "down"], check=True)
            told["pulled"].append(host)
            if asked["until"]:
                pathlib.Path(os.environ["FOLDER"], f"{host}.{asked['until']}").touch()

try:
    model = GaussianMixture(**asked["fit"], scheduler=asked["scheduler"], callbacks=[listen]).fit("data.zarr")
    model.save("model.zarr")
except SchedulerError as error:
    told["error"] = str(error)
print(json.dumps(told))
"""


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Network:
    """Hosts on a bridge."""

    def __init__(self, folder, stack, hub=None):
        self.folder = folder
        self.prefix = f"{PREFIX}{uuid.uuid4().hex[:8]}-"
        stack.enter_context(removed(self.prefix))
        self.switch = self.prefix + SWITCH
        ip("netns", "add", self.switch)
        ip("-n", self.switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", self.switch, "link", "set", "bridge", "up")
        for host, address in ADDRESSES.items():
            name = self.prefix + host
            ip("netns", "add", name)
            if hub is None:
                ip("-n", self.switch, "link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", name)
                ip("-n", self.switch, "link", "set", host, "master", "bridge", "up")
            else:
                ip("link", "set", hub.plug(), "netns", name, "name", "eth0")
            ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", name, "link", "set", device, "up")

    def start(self, host, *words, **variables):
        """A program on one of the hosts."""
        environment = {**os.environ, "FOLDER": str(self.folder), "SWITCH": self.switch, **variables}
        environment["DASK_TEMPORARY_DIRECTORY"] = str(self.folder)
        with (self.folder / f"{host}.log").open("wb") as log:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.prefix + host, sys.executable, *words],
                cwd=self.folder,
                env=environment,
                stdout=subprocess.PIPE if host == "client" else log,
                stderr=log,
            )

    def disturb(self, *words):
        """Delay and lose what every host sends."""
        for host in ADDRESSES:
            words = ("qdisc", "replace", "dev", host, "root", "netem", *words)
            subprocess.run(["tc", "-n", self.switch, *words], check=True, capture_output=True, text=True)

    def log(self, host):
        return (self.folder / f"{host}.log").read_text(errors="replace")


class Hub(threading.Thread):
    """What hosts may hang on in place of the bridge: every frame goes to all others, late, or never."""

    def __init__(self, seconds, lost):
        super().__init__()
        self.seconds, self.lost = seconds, lost
        self.ends, self.dropped = [], 0
        self.stopped, self.stop = os.pipe()

    def plug(self):
        """Name of a new device, whose cable ends here."""
        end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        self.ends.append(end)
        name = f"gmm{uuid.uuid4().hex[:8]}"
        fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
        return name

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exception):
        os.write(self.stop, b".")
        self.join()
        for descriptor in (*self.ends, self.stop, self.stopped):
            os.close(descriptor)

    def run(self):
        rng, due = random.Random(0), collections.deque()
        while True:
            wait = max(0.0, due[0][0] - time.monotonic()) if due else 0.1  # seconds; ends may have been added
            ready, _, _ = select.select([self.stopped, *self.ends], [], [], wait)
            if self.stopped in ready:
                return
            for end in ready:
                with suppress(OSError):  # a device that is not up yet
                    frame = os.read(end, 65536)
                    due.append((time.monotonic() + self.seconds, end, frame))
            while due and due[0][0] <= time.monotonic():
                _, end, frame = due.popleft()
                for other in self.ends:
                    if other == end:
                        continue
                    if rng.random() < self.lost:
                        self.dropped += 1
                        continue
                    with suppress(OSError):
                        os.write(other, frame)


def spaces(prefix):
    found = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout
    return [line.split()[0] for line in found.splitlines() if line.startswith(prefix)]


# Whatever ends this process, its end of the pipe is closed: then all namespaces go, with the processes in them, every
# device and every route.
REMOVE = """
cat
for name in $(ip netns list | cut -d ' ' -f 1 | grep "^$1"); do
    ip netns pids "$name" | xargs -r kill -9
    ip netns delete "$name"
done
"""


@contextmanager
def removed(prefix):
    words = ["sh", "-c", REMOVE, "sh", prefix]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True) as remover:
        yield
        remover.stdin.close()
        remover.wait(PATIENCE)
    assert spaces(prefix) == []


@contextmanager
def made(folder, hub=None):
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("network namespaces are made by root, on Linux")
    if shutil.which("ip") is None:
        pytest.skip("the program ip (iproute2) is not installed")
    with ExitStack() as stack:
        try:
            network = Network(folder, stack, hub)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this machine makes no network namespaces: {error.stderr.strip()}")
        yield network


@pytest.fixture
def network(tmp_path):
    with made(tmp_path) as network:
        yield network


@contextmanager
def running(process):
    try:
        yield process
    finally:
        process.kill()
        process.wait(PATIENCE)


@pytest.fixture
def rows(tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(400_000, 8)) + rng.integers(8, size=400_000)[:, None] * 2.0
    zarr.create_array(tmp_path / "data.zarr", data=rows, chunks=(8000, 8))
    return tmp_path / "data.zarr"


@contextmanager
def cluster_of(network):
    """A scheduler and two workers with one thread each, which know within 12 s that a connection is dead."""
    (network.folder / "repair.py").write_text(REPAIR)
    variables = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "12s", "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "10s"}
    listen = ["--host", ADDRESSES["scheduler"], "--port", "8786", "--dashboard-address", f"{ADDRESSES['scheduler']}:0"]
    with ExitStack() as stack:

        def start(host, *words):
            stack.enter_context(running(network.start(host, "-m", "dask", *words, **variables)))

        start("scheduler", "scheduler", *listen, "--preload", str(network.folder / "repair.py"))
        for host in ("one", "two"):
            one = [
                "--host",
                ADDRESSES[host],
                "--nthreads",
                "1",
                "--memory-limit",
                "0",
                "--no-dashboard",
                "--name",
                host,
            ]
            start(host, "worker", SCHEDULER, *one)
        yield network


@pytest.fixture
def cluster(network, rows):
    with cluster_of(network):
        yield network


def fit(network, pull=(), until=None, timeout="2min"):
    """What the client tells of a fit, in whose second pass it pulled cables, and waited no longer than that."""
    (network.folder / "client.py").write_text(CLIENT)
    asked = {"fit": FIT, "scheduler": SCHEDULER, "pull": list(pull), "until": until, "timeout": timeout}
    asked["patience"] = PATIENCE
    variables = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "12s", "DASK_DASKGMM__TIMEOUT": "2min"}
    with running(network.start("client", "-W", "error", "client.py", json.dumps(asked), **variables)) as client:
        out, _ = client.communicate(timeout=2 * PATIENCE)
    logs = "\n".join(f"---- {host}\n{network.log(host)}" for host in ADDRESSES)
    assert client.returncode == 0, logs
    told = json.loads(out)
    assert told["pulled"] == list(pull), logs
    return told, logs


def assert_same_bits(network, rows):
    here = GaussianMixture(**FIT, scheduler="threads").fit(rows)
    there = daskgmm.load(network.folder / "model.zarr")
    for name in ("weights_", "means_", "covariances_", "lower_bound_", "n_iter_"):
        np.testing.assert_array_equal(getattr(there, name), getattr(here, name))


def test_a_quiet_network(cluster, rows):
    told, logs = fit(cluster)
    assert "error" not in told, logs
    assert_same_bits(cluster, rows)


DELAY, LOSS = 0.01, 0.02  # seconds each way, and share of the packets


def test_delay_and_loss(cluster, rows):
    """By the kernel."""
    try:
        cluster.disturb("delay", f"{1000 * DELAY:g}ms", "loss", f"{100 * LOSS:g}%")
    except FileNotFoundError:
        pytest.skip("the program tc (iproute2) is not installed")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this machine's kernel has no netem: {error.stderr.strip()}")
    told, logs = fit(cluster)
    assert "error" not in told, logs
    assert_same_bits(cluster, rows)


def test_delay_and_loss_without_netem(tmp_path, rows):
    """By a hub of our own, for kernels that do neither."""
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("this machine has no /dev/net/tun")
    with Hub(DELAY, LOSS) as hub, made(tmp_path, hub) as network, cluster_of(network):
        told, logs = fit(network)
        assert hub.dropped > 0
    assert "error" not in told, logs
    assert_same_bits(network, rows)


@pytest.mark.parametrize("host", ["one", "two", "client"])
@pytest.mark.parametrize("until", ["task", "lost"])
def test_a_cable_that_is_pulled_and_put_back(cluster, rows, host, until):
    """Until the next task has finished, or until the scheduler has given up whoever was behind it."""
    if until == "lost":
        until = "lost-client" if host == "client" else "lost-worker"
    told, logs = fit(cluster, [host], until)
    assert "error" not in told, logs
    assert (cluster.folder / f"{host}.repaired").exists(), logs
    assert_same_bits(cluster, rows)


@pytest.mark.parametrize("hosts", [["client"], ["scheduler"], ["one", "two"]], ids="-".join)
def test_a_cable_that_stays_out(cluster, hosts):
    told, logs = fit(cluster, hosts, timeout="15s")
    assert "error" in told, logs
    assert SCHEDULER in told["error"]
    assert not (cluster.folder / "model.zarr").exists()


def test_one_worker_is_enough(cluster, rows):
    told, logs = fit(cluster, ["two"])
    assert "error" not in told, logs
    assert_same_bits(cluster, rows)


def test_nothing_is_left_of_a_run_that_was_killed(network):
    """Not even what runs on a host: the pipe is closed as the kernel closes it for a process that ends."""
    sleeper = subprocess.Popen(["ip", "netns", "exec", network.prefix + "one", "sleep", "1000"])
    with removed(network.prefix):  # what watches over this process, once more
        while not subprocess.run(
            ["ip", "netns", "pids", network.prefix + "one"], capture_output=True, check=True
        ).stdout:
            time.sleep(0.01)
    assert sleeper.wait(PATIENCE) == -9
