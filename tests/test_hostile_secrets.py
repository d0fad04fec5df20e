"""Passwords, tokens and signatures in addresses and options appear nowhere: not in what is printed, raised, logged or
written, nor in the causes of errors, which a traceback prints."""

import functools
import http.server
import json
import logging
import os
import subprocess
import sys
import threading
import traceback

import numpy as np
import pytest
import zarr
from fsspec.implementations.memory import MemoryFileSystem
from hostile import X, fit, good_store

import daskgmm
from daskgmm import GaussianMixture, open_zarr
from daskgmm.cli import main
from daskgmm.data.addresses import Secrets, hide_urls, local_path, printable, split_address, without_secrets
from daskgmm.data.locations import Location
from daskgmm.data.store import describe
from daskgmm.inspection import store_record

pytestmark = [
    pytest.mark.covering,
    pytest.mark.filterwarnings("ignore"),  # what others warn of is looked at here, too
    pytest.mark.timeout(120),
]

SECRET = "s3cr3tS"

# ---- what is shown of an address

SHOWN = {
    "data.zarr": "data.zarr",
    "/a b/c?d#e.zarr": "/a b/c?d#e.zarr",
    "s3://bucket/x.zarr": "s3://bucket/x.zarr",
    "memory://a/b@c": "memory://a/b@c",
    f"https://user:{SECRET}@host/x": "https://host/x",
    f"https://{SECRET}@host/x": "https://host/x",
    f"https://user:a@{SECRET}@host/x": "https://host/x",
    f"s3://key:a/{SECRET}@bucket/x": "s3://bucket/x",
    f"s3://key:a?{SECRET}@bucket/x": "s3://bucket/x",
    f"s3://key:a#{SECRET}@bucket/x": "s3://bucket/x",
    f"s3://key:a {SECRET}'\"@bucket/x": "s3://bucket/x",
    f"https://me@mail.org:a/{SECRET}@host/x": "https://host/x",
    f"file://@file://{SECRET}@": "file://",
    f"https://host/x?sig={SECRET}": "https://host/x?…",
    f"https://host/x?a='b c'&sig={SECRET}": "https://host/x?…",
    f"https://host/x#{SECRET}": "https://host/x#…",
    f"https://u:{SECRET}@host/x?sig={SECRET}#{SECRET}": "https://host/x?…",
    f"simplecache::s3://k:{SECRET}@b/x": "simplecache::s3://b/x",
    f"zip://a::https://u:{SECRET}@h/x?s={SECRET}": "zip://a::https://h/x?…",
    f"https://u:{SECRET}@h/x::s3://k:{SECRET}@b/y": "https://h/x::s3://b/y",
}


@pytest.mark.parametrize("address", SHOWN)
def test_what_is_shown_of_an_address(address):
    assert without_secrets(address) == SHOWN[address]
    assert without_secrets(SHOWN[address]) == SHOWN[address]


@pytest.mark.parametrize("address", [address for address in SHOWN if SECRET in address])
def test_what_others_say_of_it(address):
    secrets = Secrets(address)
    for text in (
        f"Cannot connect to {address}.",
        f"url='{address}/zarr.json', status=403",
        f"'{SECRET}' is no password",
        f"https%3A%2F%2Fu%3A{SECRET}",
        f"<Store({address})>",
    ):
        assert SECRET not in secrets.hide(text)
    assert secrets.hide("Forbidden (403)") == "Forbidden (403)"


def test_secrets_that_are_encoded():
    secrets = Secrets("https://u:pa%2Fss%40word@h/x?sig=a%2Bbcd%3D")
    assert secrets.hide("pa/ss@word, pa%2Fss%40word, a+bcd=, a%2Bbcd%3D") == "…, …, …, …"


def test_options_are_secrets():
    options = {"key": "AKIA-key", "client_kwargs": {"token": [SECRET]}, "anon": False, "n": 5}
    assert Secrets("s3://b/x", options).hide(f"AKIA-key {SECRET} False 5") == "… … False 5"


def test_places_in_options_are_no_secrets():
    options = {"endpoint_url": "http://minio:9000", "client_kwargs": {"region_name": "eu-west-1"}}
    told = "no connection to http://minio:9000 in eu-west-1"
    assert Secrets("s3://b/x", options).hide(told) == told
    hidden = Secrets("s3://b/x", {"endpoint_url": f"http://u:{SECRET}@minio:9000"}).hide(f"{SECRET}, http://minio:9000")
    assert hidden == "…, http://minio:9000"


def test_causes_that_tell_are_left_out():
    telling = ValueError("refused")
    telling.__cause__ = OSError(f"https://u:{SECRET}@h")
    assert Secrets(f"https://u:{SECRET}@h").cause(telling) is None
    harmless = ValueError("refused")
    assert Secrets(f"https://u:{SECRET}@h").cause(harmless) is harmless


def test_texts():
    assert hide_urls(f"a https://u:{SECRET}@h/x b") == "a https://h/x b"
    assert printable("a\x1b[2J\n\u202eb" + "c" * 300, 10) == "a?[2J??bcc…"
    assert split_address("s3://b/x::a") == ("s3://b/x", "a")
    assert local_path(f"https://u:{SECRET}@h") is None


# ---- what everything that takes an address says of it


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files, whatever the query."""

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.path = self.path.split("?")[0]
        super().do_GET()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    good_store(folder)
    good_store(folder, "damaged.zarr")
    (folder / "damaged.zarr" / "c" / "1" / "0").write_bytes(b"nothing")
    fit().save(folder / "m.zarr")
    return folder


@pytest.fixture(scope="module")
def port(folder):
    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


URLS = [
    f"evil://u:{SECRET}@h/x?token={SECRET}",
    f"evil://u:a/{SECRET}@h/x",
    f"evil://h/x#{SECRET}",
    f"evil://u:a b'{SECRET}@h/x",
    f"s3://key:{SECRET}@bucket/x.zarr",
    f"memory://u:{SECRET}@h/x.zarr?sig={SECRET}",
    f"http://u:{SECRET}@127.0.0.1:1/x.zarr?sig={SECRET}",
    f"http://u:{SECRET}@127.0.0.1:PORT/x.zarr",
    f"http://u:{SECRET}@127.0.0.1:PORT/m.zarr",
    f"http://u:{SECRET}@127.0.0.1:PORT/damaged.zarr",
    f"http://127.0.0.1:PORT/x.zarr?sig={SECRET}",
    f"http://u:{SECRET}@127.0.0.1:PORT/none.zarr?sig={SECRET}",
    f"simplecache::http://u:{SECRET}@127.0.0.1:1/x.zarr?x={SECRET}",
    f"tcp://u:{SECRET}@127.0.0.1:1",
]

CALLS = {
    "fit": lambda url: fit(url),
    "predict": lambda url: fit().predict(url).compute(scheduler="synchronous"),
    "score": lambda url: fit().score(url),
    "plan": lambda url: str(fit().plan(url)),
    "weights": lambda url: fit().score(X, sample_weight=url),
    "load": lambda url: daskgmm.load(url),
    "save": lambda url: fit().save(url),
    "describe": lambda url: describe(open_zarr(url)),
    "options": lambda url: describe(open_zarr(url, storage_options={"secret": SECRET})),
    "scheduler": lambda url: fit(X, scheduler=url),
}

COMMANDS = {
    "fit": "fit URL -k 2 --max-iter 1 --model out.zarr --overwrite",
    "fit --json": "fit URL -k 2 --max-iter 1 --model out.zarr --overwrite --json --quiet",
    "fit --plan": "fit URL -k 2 --plan --json",
    "fit to": "fit x.zarr -k 2 --max-iter 1 --model URL --json",
    "fit --warm-start": "fit x.zarr --warm-start URL --model out.zarr --overwrite",
    "fit --means-init": "fit x.zarr -k 2 --means-init URL --model out.zarr --overwrite",
    "predict": "predict URL --model m.zarr --output out.zarr --overwrite --json",
    "predict with": "predict x.zarr --model URL --output out.zarr --overwrite",
    "predict to": "predict x.zarr --model m.zarr --output URL --json",
    "score --scheduler": "score x.zarr --model m.zarr --scheduler URL",
    "score --sample-weight": "score x.zarr --model m.zarr --sample-weight URL",
    "score --sample-weight, npy": "score x.zarr --model m.zarr --sample-weight URL.npy",
    "inspect": "inspect URL",
    "inspect --json": "inspect URL --json",
    "sample": "sample URL -n 3 --output out.zarr --overwrite",
    "sample to": "sample m.zarr -n 3 --output URL --json",
    "no number": "fit x.zarr -k URL --model out.zarr",
    "no command": "URL",
    "no option": "fit x.zarr --URL",
}


@pytest.fixture
def told(folder, tmp_path, monkeypatch, capfd, caplog):
    """A function that makes a call, and returns all that came of it."""
    for name in ("x.zarr", "m.zarr"):
        os.symlink(folder / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setenv("DASK_DASKGMM__TIMEOUT", "1s")
    caplog.set_level(logging.INFO)

    def call(function, *arguments):
        try:
            result = repr(function(*arguments))
        except (ValueError, TypeError, OSError, ImportError) as error:
            lines = traceback.format_exception(error)
            # Lines of code name no values; the errors themselves, and what led to them, do.
            result = "".join(line for line in lines if not line.startswith("  File"))
        out, err = capfd.readouterr()
        return result + out + err + caplog.text

    return call


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("url", URLS, ids=range(len(URLS)))  # folders are called after tests
def test_calls(url, call, port, told, tmp_path):
    assert SECRET not in told(CALLS[call], url.replace("PORT", str(port)))
    assert_no_file_tells(tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("url", URLS, ids=range(len(URLS)))  # folders are called after tests
def test_commands(url, command, port, told, tmp_path):
    url = url.replace("PORT", str(port))
    text = told(main, [word.replace("URL", url) for word in COMMANDS[command].split()])
    assert SECRET not in text
    assert "Traceback" not in text
    assert_no_file_tells(tmp_path)


OPTIONS = {"headers": {"Authorization": SECRET}, "client_kwargs": {"headers": {"X-Token": SECRET}}}

CALLS_WITH_OPTIONS = {
    "fit": lambda url, options: repr(vars(fit(open_zarr(url, storage_options=options)))),
    "predict": lambda url, options: (
        fit().predict(open_zarr(url, storage_options=options)).compute(scheduler="synchronous")
    ),
    "names of tasks": lambda url, options: list(fit().predict(open_zarr(url, storage_options=options)).dask.keys()),
    "checkpoint": lambda url, options: GaussianMixture(2, max_iter=2).fit(
        open_zarr(url, storage_options=options), checkpoint="run.checkpoint", resume=True
    ),
    "load": lambda url, options: daskgmm.load(url, storage_options=options),
    "save": lambda url, options: fit().save(url, storage_options=options),
    "results": lambda url, options: daskgmm.write_predictions(fit(), X, url, storage_options=options),
    "results here": lambda url, options: daskgmm.write_predictions(
        fit(), open_zarr(url, storage_options=options), "out.zarr", overwrite=True, model_name=url
    ),
    "inspect": lambda url, options: store_record(url, options),
    "open": lambda url, options: repr(open_zarr(url, storage_options=options)),
    "no dict": lambda url, options: fit().save(url, storage_options=[options]),
    "with a store": lambda url, options: fit().save(zarr.storage.MemoryStore(), storage_options=options),
    "location": lambda url, options: Location.of(url, options),
}

PLAIN_URLS = [
    f"http://127.0.0.1:{port}/{name}" for port in ("PORT", "1") for name in ("x.zarr", "m.zarr", "damaged.zarr")
]


@pytest.mark.parametrize("call", CALLS_WITH_OPTIONS)
@pytest.mark.parametrize("url", PLAIN_URLS, ids=range(len(PLAIN_URLS)))
def test_calls_with_options(url, call, port, told, tmp_path):
    assert SECRET not in told(CALLS_WITH_OPTIONS[call], url.replace("PORT", str(port)), OPTIONS)
    assert_no_file_tells(tmp_path)


@pytest.mark.parametrize("form", [json.dumps(OPTIONS), f'headers={{"Authorization": "{SECRET}"}}', f"secret={SECRET}"])
@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("no command", "no option")])
def test_commands_with_options(form, command, port, told, tmp_path):
    words = [word.replace("URL", f"http://127.0.0.1:{port}/x.zarr") for word in COMMANDS[command].split()]
    assert SECRET not in told(main, [*words, "--storage-options", form])
    assert SECRET not in told(main, [*words, f"--storage-options={form}", "--no-such-option"])
    assert_no_file_tells(tmp_path)


@pytest.mark.parametrize("form", [SECRET, f"[{SECRET}]", f'{{"a": "{SECRET}"', f"a b={SECRET}"])
def test_options_that_are_none_are_not_shown(form, told):
    text = told(main, ["inspect", "x.zarr", "--storage-options", form])
    assert "storage-options" in text
    assert SECRET not in text


def assert_no_file_tells(folder):
    for path in folder.rglob("*"):
        assert SECRET not in path.name
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes()


def test_what_works_works_with_secrets(port, folder, tmp_path):
    url = f"http://u:{SECRET}@127.0.0.1:{port}"
    model = fit(f"{url}/x.zarr")
    np.testing.assert_array_equal(model.means_, fit().means_)
    np.testing.assert_array_equal(daskgmm.load(f"{url}/m.zarr").means_, model.means_)
    daskgmm.results.write_predictions(model, f"{url}/x.zarr", tmp_path / "o.zarr", model_name=f"{url}/m.zarr")
    assert_no_file_tells(tmp_path)
    model.save(tmp_path / "n.zarr")
    assert_no_file_tells(tmp_path)


@pytest.mark.slow
def test_a_process_of_its_own_tells_none(tmp_path):
    url = f"evil://u:a/{SECRET}@h/x?sig={SECRET}"
    done = subprocess.run(
        [sys.executable, "-m", "daskgmm", "fit", url, "-k", "2", "--model", str(tmp_path / "m.zarr")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert SECRET not in done.stdout + done.stderr
    assert "evil://h/x?…" in done.stderr


def test_estimators_tell_nothing_of_their_data():
    url = f"memory://u:{SECRET}@h/x"
    model = GaussianMixture(2)
    with pytest.raises(FileNotFoundError):
        model.fit(url)
    assert SECRET not in repr(model) + str(vars(model))
