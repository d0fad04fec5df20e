"""The demonstration, on photographs that are made small for most of these tests."""

import contextlib
import importlib.util
import json
import os

import numpy as np
import pytest
import zarr

import daskgmm
from daskgmm import demo
from daskgmm.cli import main
from daskgmm.errors import MissingDependencyError, OutputExistsError

pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")

OUTPUTS = ["china.png", "flower.png", "labels.zarr", "model.zarr", "pixels.zarr"]


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Photographs of 61 × 80 pixels, four components, and threads in place of worker processes."""
    load = demo._load_photographs
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "_COMPONENTS", 4)
    monkeypatch.setattr(
        demo, "_load_photographs", lambda: {name: image[::7, ::8].copy() for name, image in load().items()}
    )
    monkeypatch.setattr(demo, "embedded_cluster", lambda *_, **__: contextlib.nullcontext("threads"))
    return tmp_path


def test_the_pixels_are_those_of_the_photographs():
    photographs = demo._load_photographs()
    assert {name: image.shape for name, image in photographs.items()} == {
        "china": (427, 640, 3),
        "flower": (427, 640, 3),
    }
    assert 427 % demo._CHUNK_LINES == 0


def test_everything_is_written(small):
    record = demo.run_demo()
    assert sorted(os.listdir("daskgmm-demo")) == OUTPUTS
    pixels = daskgmm.open_zarr("daskgmm-demo/pixels.zarr")
    assert pixels.shape == (2 * 61 * 80, 3)
    assert pixels.compressors
    model = daskgmm.load(record["model"])
    assert (model.scheduler, model.n_components) == (None, 4)
    labels = zarr.open_group(record["labels"], mode="r")["labels"][:]
    np.testing.assert_array_equal(labels, model.predict(pixels[:]))
    for picture in record["pictures"]:
        with Image.open(picture) as image:
            assert image.size[0] > 1000
            assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 100


@pytest.mark.slow
def test_its_own_outputs_are_replaced_and_nothing_else(small):
    output = small / "there"
    output.mkdir()
    (output / "notes.txt").write_text("mine")
    for _ in range(2):
        demo.run_demo(output)
    assert sorted(os.listdir(output)) == sorted([*OUTPUTS, "notes.txt"])
    assert (output / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", OUTPUTS)
def test_foreign_files_of_the_same_names_are_left_alone(small, name):
    output = small / "there"
    output.mkdir()
    if name.endswith(".png"):
        Image.new("RGB", (2, 2)).save(output / name)
    else:
        zarr.create_array(output / name, data=np.ones(3))
    with pytest.raises(OutputExistsError, match=name):
        demo.run_demo(output)
    assert os.listdir(output) == [name]


@pytest.mark.parametrize("package", ["PIL", "matplotlib"])
def test_missing_packages_are_named_first(small, monkeypatch, package):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(MissingDependencyError, match=rf"needs {package}, .*pip install 'daskgmm\[demo\]'"):
        demo.run_demo()
    assert os.listdir() == []


def test_in_the_terminal(small, capfd):
    assert main(["demo", "--output", "out"]) == 0
    out, err = capfd.readouterr()
    assert "4 components, 3 features" in out
    assert "red" in out
    assert "predict: 9,760 rows" in err
    assert main(["demo", "--output", "out", "--json", "--quiet"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert json.loads(out)["pictures"] == ["out/china.png", "out/flower.png"]


@pytest.mark.cluster
@pytest.mark.slow
def test_the_real_thing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["demo"]) == 0
    assert sorted(os.listdir("daskgmm-demo")) == OUTPUTS
    assert daskgmm.open_zarr("daskgmm-demo/pixels.zarr").shape == (546_560, 3)
