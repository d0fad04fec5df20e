"""The notebooks run from top to bottom, and are committed without what a run leaves in them."""

import json
from pathlib import Path
from typing import Any

import matplotlib
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A directory to work in and a matplotlib that opens no windows."""
    from matplotlib import pyplot

    monkeypatch.chdir(tmp_path)
    backend = matplotlib.get_backend()
    pyplot.switch_backend("Agg")
    yield pyplot
    pyplot.close("all")
    pyplot.switch_backend(backend)


def execute(path: Path, replacements: dict[str, str]) -> dict[str, Any]:
    """Run the code cells in order, as Jupyter does, and return what they defined."""
    namespace: dict[str, Any] = {"__name__": "__notebook__"}
    for cell in code_cells(path):
        source = "".join(cell["source"])
        for old, new in replacements.items():
            source = source.replace(old, new)
        exec(compile(source, f"{path.name}[{cell['id']}]", "exec"), namespace)
    return namespace


SIZE = "n_profiles, chunk = 3_000_000, 250_000"


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.parametrize("size", ["n_profiles, chunk = 100_000, 30_000", SIZE], ids=["small", "as is"])
def test_getting_started(size: str, figures: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = (path for path in NOTEBOOKS if path.stem == "getting_started")
    assert any(SIZE in "".join(cell["source"]) for cell in code_cells(path))
    found = execute(path, {SIZE: size})
    printed = capsys.readouterr().out
    for claim in ("converged: True", "the same bits: True", "lowest at 5"):
        assert claim in printed
    assert found["classes"].shape == (found["n_profiles"],)
    assert abs(found["model"].weights_[found["nearest"]] - found["shares"]).max() < 0.02
    for figure in map(figures.figure, figures.get_fignums()):
        figure.savefig("figure.png")
    assert len(figures.get_fignums()) == 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_committed_without_outputs(path: Path) -> None:
    notebook = json.loads(path.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) >= (4, 5)
    identifiers = [cell["id"] for cell in notebook["cells"]]
    assert len(set(identifiers)) == len(identifiers)
    for cell in code_cells(path):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
