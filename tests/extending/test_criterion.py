"""A criterion of one's own, as CONTRIBUTING.md tells: one entry, and everything else follows."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

import daskgmm
from daskgmm import criteria

N, D = 300, 2


def hannan_quinn(log_likelihood, n_parameters, n_rows, entropy):
    """Hannan & Quinn, J. R. Stat. Soc. B 41(2), 1979."""
    return -2 * log_likelihood + 2 * n_parameters * math.log(math.log(n_rows))


@pytest.fixture
def hqc(monkeypatch):
    monkeypatch.setitem(criteria.CRITERIA, "hqc", criteria.Criterion("HQC", hannan_quinn, negligible=5.0))


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return np.vstack([rng.normal(size=(N // 2, D)) + shift for shift in (0, 9)])


def test_it_decides_and_stands_in_the_table(hqc, rows):
    found = daskgmm.select(rows, (1, 2, 3), "spherical", "hqc", estimator=daskgmm.GaussianMixture(random_state=0))
    assert found.criterion == "hqc"
    values = {row["n_components"]: row["hqc"] for row in found.table}
    for row in found.table:
        total = row["log_likelihood"] * N
        assert row["hqc"] == pytest.approx(hannan_quinn(total, row["n_parameters"], N, 0), rel=1e-12)
    assert found.best[0] == min(values, key=values.get) == 2
    assert found.model.criteria(rows)["hqc"] == pytest.approx(values[2], rel=1e-12)
    assert "hqc" in str(found)
    assert "best by hqc: 2 components" in str(found)
    assert json.loads(json.dumps(found.as_record()))["candidates"][1]["hqc"] == values[2]


def test_it_is_drawn(hqc, rows):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    found = daskgmm.select(rows, (1, 2), criterion="hqc", estimator=daskgmm.GaussianMixture(random_state=0))
    ax = found.plot(figure.subplots())
    assert ax.get_ylabel() == "HQC above the best"
    assert ax.yaxis.get_transform().linthresh == 5


@pytest.mark.parametrize("uses_entropy", [False, True])
def test_patience_takes_it_if_it_follows_from_the_likelihood(hqc, rows, uses_entropy, monkeypatch):
    monkeypatch.setitem(criteria.CRITERIA, "hqc", criteria.Criterion("HQC", hannan_quinn, uses_entropy=uses_entropy))
    how = {"criterion": "hqc", "patience": 2, "estimator": daskgmm.GaussianMixture(random_state=0)}
    if uses_entropy:
        with pytest.raises(ValueError, match="patience=2 with criterion='hqc': only 'bic' and 'aic' can"):
            daskgmm.select(rows, (1, 2), **how)
    else:
        assert daskgmm.select(rows, (1, 2), **how).best == (2, "full")


def test_the_terminal_offers_it():
    code = """
from daskgmm import criteria
criteria.CRITERIA["hqc"] = criteria.Criterion("HQC", None)
from daskgmm.cli import main
main(["select", "--help"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert "[bic|aic|icl|hqc|held_out]" in done.stdout
    assert "the lowest bic, aic, icl, hqc, or" in " ".join(done.stdout.split())
