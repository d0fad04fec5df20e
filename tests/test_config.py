"""Settings: defaults from the package's file, values of users from everywhere Dask takes them."""

import json
import os
import subprocess
import sys
from importlib.resources import files

import dask
import pytest
from products import mostly_slow

from daskgmm import config

DEFAULTS = {"timeout": None, "missing-chunks": "raise", "read-retries": 4, "compiled": True}


def settings(tmp_path, code, **variables):
    """What a new process prints; its configuration files are in ``tmp_path``."""
    program = f"import json\n{code}\nprint(json.dumps(dask.config.get('daskgmm')))"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DASK_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=environment | {"DASK_CONFIG": str(tmp_path)} | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "code", mostly_slow(["import dask, daskgmm", "from daskgmm import load; import dask"], "import dask, daskgmm")
)
def test_all_settings_show_with_their_defaults(tmp_path, code):
    assert settings(tmp_path, code) == DEFAULTS


def test_values_of_users_stay(tmp_path):
    (tmp_path / "any.yaml").write_text("daskgmm:\n  timeout: 1h\n  read-retries: 9\n")
    code = "import dask\ndask.config.set({'daskgmm.compiled': False})\nimport daskgmm"
    found = settings(tmp_path, code, DASK_DASKGMM__MISSING_CHUNKS="fill", DASK_DASKGMM__READ_RETRIES="7")
    found = {name.replace("_", "-"): value for name, value in found.items()}  # Dask knows both spellings
    assert found == {"timeout": "1h", "missing-chunks": "fill", "read-retries": 7, "compiled": False}


@pytest.mark.parametrize("value", [{"timeout": "1s"}, {}, None])
def test_some_settings_in_place_of_all(value):
    with dask.config.set({"daskgmm": value}):
        assert config.Reading.configured() == config.Reading(fill_missing=False, retries=4)
        assert config.timeout_seconds("10s") == (1 if value else 10)
        assert config.compiled() is True


@pytest.mark.parametrize("value", ["5", "null", "[1]"])
def test_a_file_without_settings(tmp_path, value):
    (tmp_path / "any.yaml").write_text(f"daskgmm: {value}\n")
    assert settings(tmp_path, "import dask, daskgmm") == DEFAULTS


def test_the_variable_of_a_hyphenated_setting_is_obeyed(tmp_path):
    code = "import dask, daskgmm.config\nassert daskgmm.config.Reading.configured().fill_missing"
    settings(tmp_path, code, DASK_DASKGMM__MISSING_CHUNKS="fill")


def test_every_default_is_valid():
    with dask.config.set({f"daskgmm.{name}": value for name, value in DEFAULTS.items()}):
        assert config.Reading.configured() == config.Reading(fill_missing=False, retries=4)
        assert config.timeout_seconds("10s") == 10
        assert config.compiled() is True


def test_every_setting_is_explained():
    lines = files("daskgmm").joinpath("daskgmm.yaml").read_text().splitlines()
    for name in DEFAULTS:
        (at,) = [i for i, line in enumerate(lines) if line.startswith(f"  {name}: ")]
        assert lines[at - 1].startswith("  # ")
