"""Same data, settings and seed: the same bits; and what that depends on, told by every model."""

import json
import os
import subprocess
import sys

import pytest

from daskgmm.engine.environment import differences, environment

# ---- what the bits depend on


def elsewhere(program, **variables):
    """What a program prints in a new process with these environment variables."""
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | variables, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def environment_elsewhere(**variables):
    program = "import json, daskgmm.engine.environment as e; print(json.dumps(e.environment()))"
    return json.loads(elsewhere(program, **variables))


def test_an_environment_is_the_same_in_every_process():
    told = environment()
    assert environment_elsewhere() == told
    assert all(isinstance(value, str) and value for value in told.values())
    told["blas"] = "changed by a caller"
    assert environment()["blas"] != "changed by a caller"


@pytest.mark.parametrize(
    ("variables", "field"),
    [
        ({"OPENBLAS_CORETYPE": "Prescott"}, "blas"),
        ({"NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX2 AVX512_SKX AVX512_ICL"}, "cpu_features"),
    ],
    ids=["BLAS kernels", "NumPy loops"],
)
def test_an_environment_tells_which_code_runs(variables, field):
    told = environment_elsewhere(**variables)
    if told == environment():
        pytest.skip(f"{variables} change nothing on this machine: {told[field]}")
    assert set(differences(environment(), told)) == {field}


def test_the_name_of_a_processor_alone_changes_nothing():
    one, other = environment(), environment() | {"cpu": "another"}
    assert differences(one, other) == {}
    assert differences(one, other | {"blas": "x"}) == {"blas": (one["blas"], "x")}
    assert differences({}, {"loops": "y"}) == {"loops": ("", "y")}
