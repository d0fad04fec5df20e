"""A cluster that speaks TLS: the same bits, and nobody who has no certificate of its authority."""

import asyncio
import gc
import json
import os
import re
import shlex
import signal
import socket
import ssl
import stat
import subprocess
import sys
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import dask
import distributed
import numpy as np
import psutil
import pytest
import yaml
import zarr

import daskgmm
from daskgmm import GaussianMixture
from daskgmm.cli import main
from daskgmm.engine.cluster import embedded_cluster
from daskgmm.errors import SchedulerError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the certificates are made by a shell script")

ROOT = Path(__file__).parents[1]
README = ROOT / "cluster_configs" / "tls" / "README.md"
SCRIPT = ROOT / "cluster_configs" / "tls" / "make_certificates.sh"
PATIENCE = 120  # seconds until a process that does not answer is an error
ROLES = ("scheduler", "worker", "client")
FILES = {"ca.pem", "ca-key.pem", "tls.yaml", *(f"{role}{end}.pem" for role in ROLES for end in ("", "-key"))}


def run(words, directory, check=True, **variables):
    done = subprocess.run(
        words, cwd=directory, env={**os.environ, **variables}, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    return done


def make(directory, *hosts, check=True, **variables):
    return run(["sh", str(SCRIPT), str(directory), *hosts], directory.parent, check, **variables)


def readme(start):
    """The only command of the README that begins so."""
    blocks = re.findall(r"^```sh\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    (found,) = [line for block in blocks for line in block.splitlines() if line.startswith(start)]
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home directory with ~/daskgmm-tls, made by the README's command."""
    home = tmp_path_factory.mktemp("home")
    run(["sh", "-c", f"umask 000; {readme('sh cluster_configs')}"], ROOT, HOME=str(home))
    return home


@pytest.fixture(scope="module")
def ours(home):
    return home / "daskgmm-tls"


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """Certificates of another authority, which has the same name."""
    made = tmp_path_factory.mktemp("foreign") / "tls"
    make(made, "localhost")
    return made


def settings(directory, client=None, **tls):
    """This process's configuration: that of tls.yaml, with the client's own files from elsewhere."""
    comm = yaml.safe_load((directory / "tls.yaml").read_text())["distributed"]["comm"]
    if client is not None:
        comm["tls"]["client"] = client
    comm["tls"].update(tls)
    return dask.config.set({"distributed": dask.config.merge(dask.config.get("distributed"), {"comm": comm})})


def files(directory, role="client"):
    return {"cert": str(directory / f"{role}.pem"), "key": str(directory / f"{role}-key.pem")}


# ---- certificates


def openssl(*words):
    return run(["openssl", *map(str, words)], ROOT).stdout


def test_files_are_the_owners(ours):
    """Whatever the umask was."""
    assert {path.name for path in ours.iterdir()} == FILES
    assert stat.S_IMODE(ours.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in ours.iterdir()} == {0o600}


def test_names_and_purposes(ours):
    for role in ("scheduler", "worker"):
        text = openssl("x509", "-in", ours / f"{role}.pem", "-noout", "-text")
        for name in ("DNS:localhost", "DNS:scheduler.example.org", "IP Address:192.0.2.10", "IP Address:127.0.0.1"):
            assert name in text
        for purpose in ("sslserver", "sslclient"):
            openssl("verify", "-x509_strict", "-purpose", purpose, "-CAfile", ours / "ca.pem", ours / f"{role}.pem")
    client = ["-CAfile", ours / "ca.pem", ours / "client.pem"]
    openssl("verify", "-x509_strict", "-purpose", "sslclient", *client)
    assert run(["openssl", "verify", "-purpose", "sslserver", *map(str, client)], ROOT, check=False).returncode != 0
    assert "CA:TRUE, pathlen:0" in openssl("x509", "-in", ours / "ca.pem", "-noout", "-text")  # it makes no others
    year = 365 * 24 * 3600
    for file in ours.glob("*[!y].pem"):  # not the keys
        openssl("x509", "-in", file, "-noout", "-checkend", year - 7200)
        assert "Certificate will expire" in run(
            ["openssl", "x509", "-in", str(file), "-noout", "-checkend", str(year + 1)], ROOT, check=False
        ).stdout  # fmt: skip


def test_no_two_keys_are_the_same(ours, foreign):
    keys = [path.read_text() for folder in (ours, foreign) for path in folder.glob("*-key.pem")]
    assert len(set(keys)) == len(keys) == 8


def test_names_that_yaml_would_misread(tmp_path):
    made = tmp_path / "it's: a #name"
    make(made, "fe80::1", "*.example.org")
    with settings(made):
        assert distributed.Security().get_connection_args("client")["require_encryption"]
    assert "FE80" in openssl("x509", "-in", made / "worker.pem", "-noout", "-text")


@pytest.mark.parametrize(
    ("hosts", "message"),
    [
        ([], "expected DIRECTORY HOST"),
        ([""], "neither the name nor the address of a host"),
        (["a,IP:1.2.3.4"], "neither the name nor the address of a host"),
        (["a\nb"], "neither the name nor the address of a host"),
        (["1.2.3.999"], "bad ip address"),
    ],
)
def test_hosts_that_are_none(tmp_path, hosts, message):
    done = make(tmp_path / "tls", *hosts, check=False)
    assert done.returncode != 0
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", ["folder", "link"])
def test_a_directory_that_is_there_already_is_left_alone(tmp_path, there):
    """Whoever made it might read what is put into it."""
    (tmp_path / "other").mkdir(mode=0o777)
    if there == "link":
        (tmp_path / "tls").symlink_to("other")
    else:
        (tmp_path / "other").rename(tmp_path / "tls")
    done = make(tmp_path / "tls", "localhost", check=False)
    assert done.returncode == 1
    assert "name a directory that does not exist yet" in done.stderr
    assert list((tmp_path / "tls").iterdir()) == []


@pytest.fixture
def no_openssl(tmp_path):
    """A program in its place that says so, and waits for ever where it is to make the second key."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "openssl"
    os.mkfifo(tmp_path / "called")
    program.write_text(
        f"#!/bin/sh\necho broken >&2\n[ ! $WAIT ] || {{ echo > {tmp_path}/called; sleep 1000; }}\nexit 3\n"
    )
    program.chmod(0o755)
    return f"{program.parent}{os.pathsep}{os.environ['PATH']}"


def test_nothing_is_left_of_a_failure(tmp_path, no_openssl):
    done = make(tmp_path / "tls", "localhost", check=False, PATH=no_openssl)
    assert done.returncode == 3
    assert "broken" in done.stderr
    assert not (tmp_path / "tls").exists()


def test_nothing_is_left_of_an_interrupt(tmp_path, no_openssl):
    environment = {**os.environ, "PATH": no_openssl, "WAIT": "yes"}
    words = ["sh", str(SCRIPT), str(tmp_path / "tls"), "localhost"]
    with subprocess.Popen(words, env=environment, start_new_session=True, stderr=subprocess.DEVNULL) as process:
        (tmp_path / "called").read_text()  # until it is called
        assert (tmp_path / "tls").exists()
        os.killpg(process.pid, signal.SIGTERM)  # as a terminal does
        assert process.wait(PATIENCE) == 130
    assert not (tmp_path / "tls").exists()


# ---- a real cluster


@contextmanager
def started(command, log, **variables):
    """A command of a shell in the background; its messages go to a file, which no full pipe can stop."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["sh", "-c", f"exec {command}"], env={**os.environ, "PATH": path, **variables}, stdout=file, stderr=file
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(PATIENCE)


@contextmanager
def scheduler_of(home, folder):
    """Address of a scheduler that was started as the README says, on a free port."""
    found, scratch = folder / "scheduler.json", folder / "scratch"
    scratch.mkdir()
    os.mkfifo(found)  # reading it waits until the scheduler has written it
    command = readme("dask scheduler").replace("--port 8786", "--port 0").replace("127.0.0.1:8787", "127.0.0.1:0")
    variables = {"HOME": str(home), "DASK_TEMPORARY_DIRECTORY": str(scratch), "DASK_CONFIG": configuration(home)}
    with started(f"{command} --scheduler-file {found}", folder / "scheduler.log", **variables) as process:
        yield json.loads(found.read_text())["address"], variables, process


def configuration(home):
    """What the README sets the variable to."""
    return run(["sh", "-c", f"{readme('export DASK_CONFIG')}; echo $DASK_CONFIG"], ROOT, HOME=str(home)).stdout.strip()


@pytest.fixture(scope="module")
def cluster(home, ours, tmp_path_factory):
    """Address and processes of a scheduler and two workers, each started as the README says."""
    folder = tmp_path_factory.mktemp("cluster")
    with scheduler_of(home, folder) as (address, variables, scheduler):
        command = readme("dask worker").replace("tls://127.0.0.1:8786", address)
        with started(command, folder / "worker.log", **variables) as worker:
            with settings(ours), distributed.Client(address, set_as_default=False) as client:
                client.wait_for_workers(2, timeout=PATIENCE)
            yield address, [scheduler, worker], folder


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(6000, 2)) + rng.integers(3, size=6000)[:, None] * 5.0
    zarr.create_array(tmp_path / "data.zarr", data=rows, chunks=(1000, 2))
    return tmp_path / "data.zarr"


@pytest.fixture(autouse=True)
def patient():
    """A wait that is not cut short is found out by the test's own time limit."""
    with dask.config.set({"daskgmm.timeout": "1h"}):
        yield


def assert_equal_models(one, other):
    for name in ("weights_", "means_", "covariances_", "lower_bound_"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.cluster
def test_same_bits_in_python(cluster, ours, data):
    """With the README's program."""
    (python,) = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    address, _, folder = cluster
    replaced = {"tls://127.0.0.1:8786": address, '"data.zarr"': repr(str(data)), "(16": "(3, random_state=0"}
    for old, new in replaced.items():
        assert old in python
        python = python.replace(old, new)
    here, namespace = GaussianMixture(3, random_state=0, scheduler="threads").fit(data), {}
    with settings(ours):
        exec(python, namespace)
        there = namespace["model"]
        assert_equal_models(there, here)
        assert there.score(data) == here.score(data)
        np.testing.assert_array_equal(there.predict(data), here.predict(data))
    assert "Traceback" not in (folder / "worker.log").read_text() + (folder / "scheduler.log").read_text()


@pytest.fixture
def terminal(capfd):
    """The command line, in this process."""

    def call(*words):
        status = main([str(word) for word in words])
        out, err = capfd.readouterr()
        return status, out, err

    return call


VARIABLES = r"^export (DASK_DISTRIBUTED__\w+=.*)$"


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.parametrize("by", ["file", "variables"])
def test_same_bits_in_the_terminal(cluster, home, ours, data, tmp_path, terminal, by):
    """With the README's command, and its two ways to tell where the certificates are."""
    command = shlex.split(readme("daskgmm fit").replace("tls://127.0.0.1:8786", cluster[0]).replace("-k 16", "-k 3"))
    words = [sys.executable, "-m", *command, "--random-state", "0", "--json", "--verbose", "2"]
    if by == "file":
        variables = {"DASK_CONFIG": configuration(home)}
    else:
        found = dict(line.split("=") for line in re.findall(VARIABLES, README.read_text(), re.MULTILINE))
        variables = {name: value.replace("~", str(home)) for name, value in found.items()}
        assert len(variables) == 4
    done = run(words, tmp_path, **variables)
    here = GaussianMixture(3, random_state=0, scheduler="threads").fit(data)
    assert_equal_models(daskgmm.load(tmp_path / "mixture.zarr"), here)
    told = done.stdout + done.stderr
    rest = ("--model", tmp_path / "mixture.zarr", "--scheduler", cluster[0], "--json")
    with settings(ours):
        for name, *options in (("score",), ("predict", "--output", tmp_path / "out.zarr")):
            status, out, err = terminal(name, data, *rest, *options)
            assert status == 0, err
            told += out + err
    np.testing.assert_array_equal(zarr.open(tmp_path / "out.zarr")["labels"][:], here.predict(data))
    tells_nothing(ours, told)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            tells_nothing(ours, path.read_text(errors="replace"))


def tells_nothing(directory, text):
    assert str(directory) not in text
    assert not any(line in text for line in secret_lines(directory))


def secret_lines(directory):
    return [
        line for path in directory.glob("*-key.pem") for line in path.read_text().splitlines() if "-----" not in line
    ]


def listening(processes):
    every = [p for process in processes for p in [psutil.Process(process.pid)]]
    every += [child for process in every for child in process.children(recursive=True)]
    return {c.laddr for p in every for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN}


@pytest.mark.cluster
def test_every_port_wants_a_certificate(cluster, ours):
    """Scheduler, nannies and workers; what is served by HTTP runs no code and is on loopback."""
    address, processes, _ = cluster
    with settings(ours), distributed.Client(address, set_as_default=False) as client:
        info = client.scheduler_info(n_workers=-1)
    known = {info["address"], *info["workers"], *(worker["nanny"] for worker in info["workers"].values())}
    assert len(known) == 5
    assert all(address.startswith("tls://127.0.0.1:") for address in known)
    ports = {int(address.rpartition(":")[2]) for address in known}
    nobody = ssl.create_default_context(cafile=ours / "ca.pem")  # without a certificate of its own
    nobody.check_hostname = False
    for port in ports:
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            nobody.wrap_socket(plain) as connection,
            pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"),
        ):
            connection.recv(1)
        with socket.create_connection(("127.0.0.1", port)) as plain:
            plain.sendall(bytes(range(64)))  # no TLS
            with suppress(ConnectionResetError):
                assert plain.recv(1000)[:1] in (b"", b"\x15"), "an alert, and not Dask's greeting"
    assert {at.ip for at in listening(processes)} == {"127.0.0.1"}


# ---- who is refused


def mixed(ours, foreign):
    return settings(ours, client=files(foreign))


REFUSED = {
    "not encrypted": (lambda ours, foreign: ExitStack(), "tcp", "With TLS its address begins with tls://"),
    "not encrypted, which is forbidden": (lambda ours, foreign: settings(ours), "tcp", "encryption required by Dask"),
    "not configured": (lambda ours, foreign: ExitStack(), "tls", "ca-file is None, which is no file"),
    "another authority": (lambda ours, foreign: settings(foreign), "tls", "certificate in certificate chain"),
    "a certificate of another authority": (mixed, "tls", r"both sides need certificates of one authority"),
    "a key that is not there": (
        lambda ours, foreign: settings(ours, client={"cert": str(ours / "client.pem"), "key": "/no/where.pem"}),
        "tls",
        r"client.key is '/no/where.pem', which is no file",
    ),
    "the key of another certificate": (
        lambda ours, foreign: settings(
            ours, client={"cert": str(ours / "client.pem"), "key": str(ours / "worker-key.pem")}
        ),
        "tls",
        "(?i)key values mismatch.* in PEM format",
    ),
    "a key in place of the certificate": (
        lambda ours, foreign: settings(ours, client={"cert": (ours / "client-key.pem").read_text()}),
        "tls",
        "SSLError.* in PEM format",
    ),
}


def refusals(test):
    return pytest.mark.parametrize("case", REFUSED)(test)


@pytest.mark.cluster
@refusals
def test_refused(cluster, ours, foreign, data, case):
    """At once, although one may wait for an hour."""
    setting, scheme, message = REFUSED[case]
    address = cluster[0].replace("tls", scheme)
    with setting(ours, foreign), pytest.raises(SchedulerError, match=message) as caught:
        GaussianMixture(2, random_state=0, scheduler=address).fit(data)
    assert f"scheduler='{address}'" in str(caught.value)
    assert not any(line in str(caught.value) for line in [*secret_lines(ours), *secret_lines(foreign)])


@pytest.mark.cluster
def test_refused_in_the_terminal(cluster, ours, foreign, data, tmp_path, terminal):
    plain = cluster[0].replace("tls", "tcp")
    for address, setting in ((plain, None), (plain, ours), (cluster[0], foreign)):
        with ExitStack() if setting is None else settings(setting):  # which sets when it is called
            fit = ("fit", data, "-k", 2, "--model", tmp_path / "m.zarr", "--scheduler", address)
            status, out, err = terminal(*fit)
        assert (status, out) == (1, "")
        assert err.startswith(f"error: --scheduler '{address}' does not answer"), err
        assert "Traceback" not in err
        tells_nothing(foreign, err)


@pytest.mark.cluster
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # by Dask, of the connection that it gives up
def test_a_scheduler_without_tls_is_refused(ours, data):
    with distributed.LocalCluster(
        n_workers=1, processes=False, host="127.0.0.1", protocol="tcp", dashboard_address="127.0.0.1:0"
    ) as plain:
        address = plain.scheduler_address.replace("tcp", "tls")
        with settings(ours), pytest.raises(SchedulerError, match="With TLS its address") as caught:
            GaussianMixture(2, random_state=0, scheduler=address).fit(data)
        # Nor is it spoken to by the name under which it would answer.
        with settings(ours), pytest.raises(SchedulerError, match="encryption required by Dask configuration"):
            GaussianMixture(2, random_state=0, scheduler=plain.scheduler_address).fit(data)
    del caught
    gc.collect()


@pytest.mark.cluster
@pytest.mark.parametrize("posing_as", ["scheduler", "worker", "client"])
def test_who_may_be_a_scheduler(ours, foreign, posing_as):
    """With the certificate of a client nobody can pose as a scheduler or a worker."""

    async def greet():
        with settings(ours, scheduler=files(ours, posing_as)):
            security = distributed.Security()
        listen, connect = security.get_listen_args("scheduler"), security.get_connection_args("client")
        async with distributed.comm.listen("tls://127.0.0.1:0", lambda comm: comm.close(), **listen) as server:
            comm = await distributed.comm.connect(server.contact_address, **connect)
            comm.abort()

    if posing_as == "client":
        with pytest.raises(OSError, match="certificate does not match"):
            asyncio.run(greet())
    else:
        asyncio.run(greet())


@pytest.mark.slow
@pytest.mark.cluster
def test_a_worker_is_refused(home, ours, foreign, data, tmp_path):
    """Of another authority, and one that speaks no TLS."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    options = " ".join(f"--tls-{name} {path}" for name, path in files(foreign, "worker").items())
    with scheduler_of(home, folder) as (address, variables, _):
        plain = {name: value for name, value in variables.items() if name != "DASK_CONFIG"}
        commands = {
            "authority": (f"{address} --tls-ca-file {ours / 'ca.pem'} {options}", variables),
            "plain": (address.replace("tls", "tcp"), plain),
        }
        with ExitStack() as stack:
            workers = [
                stack.enter_context(
                    started(f"dask worker {words} --death-timeout 3 --no-dashboard", folder / f"{kind}.log", **around)
                )
                for kind, (words, around) in commands.items()
            ]
            for worker in workers:
                assert worker.wait(PATIENCE) != 0
        with (
            settings(ours),
            dask.config.set({"daskgmm.timeout": "5s"}),
            pytest.raises(SchedulerError, match="has no workers after 5 s"),
        ):
            GaussianMixture(2, random_state=0, scheduler=address).fit(data)
    log = (folder / "scheduler.log").read_text()
    assert "TLS handshake failed" in log
    assert "Register worker" not in log


# ---- the embedded cluster


@pytest.mark.cluster
def test_an_embedded_cluster_speaks_tls_where_that_is_configured(ours, data):
    """Others who are logged in to the same machine reach loopback, too."""
    here = GaussianMixture(3, random_state=0, scheduler="threads").fit(data)
    with settings(ours), embedded_cluster(1, 1, "500MB") as client:
        info = client.scheduler_info()
        known = {info["address"], *info["workers"], *(worker["nanny"] for worker in info["workers"].values())}
        assert len(known) == 3
        assert all(address.startswith("tls://127.0.0.1:") for address in known)
        assert_equal_models(GaussianMixture(3, random_state=0, scheduler=client).fit(data), here)
        tells_nothing(ours, repr(client) + json.dumps(info, default=str))


# ---- what is told


def test_messages_tell_no_key(ours, foreign):
    """Keys may be given as texts in place of files."""
    key, cert = (ours / "client-key.pem").read_text(), (ours / "client.pem").read_text()
    broken = key.replace("\n", "x\n", 2)
    for client in ({"cert": cert, "key": broken}, {"cert": cert + broken}, {"cert": broken, "key": cert}):
        with settings(ours, client=client), pytest.raises(SchedulerError) as caught:
            GaussianMixture(2, scheduler="tls://127.0.0.1:1").fit(np.zeros((4, 1)))
        assert "SSLError" in str(caught.value)
        assert "in PEM format" in str(caught.value)
        assert not any(line[:20] in str(caught.value) for line in secret_lines(ours))


@pytest.mark.parametrize("value", [5, True, ["a"], "", "a\0b", "/"])
def test_settings_that_are_no_files(ours, value):
    with settings(ours, **{"ca-file": value}), pytest.raises(SchedulerError, match=r"ca-file is .*, which is no file"):
        GaussianMixture(2, scheduler="tls://127.0.0.1:1").fit(np.zeros((4, 1)))
