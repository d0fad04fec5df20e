"""The design as a test: imports go one way, public names are what they say, nothing optional is imported."""

import ast
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import daskgmm
from daskgmm import errors, events
from daskgmm.core.covariance import STRUCTURES

PACKAGE = Path(daskgmm.__file__).parent
PYPROJECT = PACKAGE.parent / "pyproject.toml"
BENCHMARKS = PACKAGE.parent / "benchmarks"

# A unit is a folder or a file of the package. It may import from itself and from those before it. Every import counts:
# at the top, in a function, and for type checkers only.
LAYERS = [
    "errors",
    "names",
    "criteria",
    "version",
    "tuning",
    "config",
    "core",
    "data",
    "engine",
    "fitting",
    "events",
    "persistence",
    "diagnostics",
    "estimators",
    "results",
    "inspection",
    "demo",
    "jobs",
    "options",
    "messages",
    "cli",
    "__init__",
    "__main__",
]
RANK = {unit: rank for rank, unit in enumerate(LAYERS)}

# Who knows nothing of whom, although it lies above.
STRANGERS = [
    ("data", "core"),
    ("engine", "core"),
    ("diagnostics", "estimators"),
    ("persistence", "estimators"),
    ("persistence", "diagnostics"),
]

# Who may import what from outside; what stands nowhere here (and is not Python's own) may be imported by nobody.
EXTERNAL = {
    "numpy": set(RANK) - {"errors", "names", "criteria", "version", "tuning"},
    "scipy": {"core", "engine"},
    "numba": {"core"},
    "dask": {"config", "data", "engine", "fitting", "diagnostics", "estimators", "results", "jobs", "options"},
    "distributed": {"engine"},
    "yaml": {"config"},
    "h5py": {"data"},
    "pandas": {"data"},
    "pyarrow": {"data"},
    "xarray": {"data", "estimators"},
    "zarr": {"data", "persistence", "results", "inspection", "demo"},
    "fsspec": {"data"},
    "sklearn": {"fitting", "estimators", "demo", "jobs"},
    "psutil": {"engine"},
    "threadpoolctl": {"engine"},
    "rich": {"diagnostics"},
    "click": {"cli", "options", "messages"},
    "matplotlib": {"diagnostics", "demo"},
    "PIL": {"demo"},
}
OPTIONAL = {"h5py", "matplotlib", "pandas", "PIL", "pyarrow", "xarray"}
ON_DEMAND = {"daskgmm.core.compiled"}  # imported where its package is installed, and never with daskgmm itself


class Import:
    """One import statement's module, seen from the module that holds it."""

    def __init__(self, importer, target, top_level):
        self.importer, self.target, self.top_level = importer, target, top_level

    @property
    def inside(self):
        return self.target.partition(".")[0] == "daskgmm"

    def __repr__(self):
        return f"{self.importer} imports {self.target}"


def unit_of(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def modules_below(folder, root):
    """Files by the names that they are imported by; ``root`` is where names begin."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def modules():
    return modules_below(PACKAGE, PACKAGE.parent)


def imports_of(name, path, known):
    tree = ast.parse(path.read_text())
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    top_level = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name, alias.name, id(node) in top_level)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            target = ".".join(filter(None, [base, node.module]))
            for alias in node.names:  # a submodule may be imported by name
                submodule = f"{target}.{alias.name}"
                yield Import(name, submodule if submodule in known else target, id(node) in top_level)


@cache
def all_imports():
    return [found for name, path in modules().items() for found in imports_of(name, path, modules())]


def test_every_unit_has_a_layer():
    assert {unit_of(name) for name in modules()} == set(RANK)


def backwards(imports):
    return [found for found in imports if found.inside and RANK[unit_of(found.target)] > RANK[unit_of(found.importer)]]


def test_imports_go_one_way():
    assert not backwards(all_imports())


@pytest.mark.parametrize(("unit", "stranger"), STRANGERS)
def test_some_units_know_nothing_of_others_below(unit, stranger):
    assert not [f for f in all_imports() if f.inside and (unit_of(f.importer), unit_of(f.target)) == (unit, stranger)]


FORMS = {
    "at the top": "{}\n",
    "in a function": "def f():\n    {}\n",
    "for type checkers": "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    {}\n",
}
in_every_form = pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))


@in_every_form
@pytest.mark.parametrize(
    "statement",
    [
        ("daskgmm.core.mixture", "from ..data.source import Dataset"),
        ("daskgmm.core.mixture", "from daskgmm.engine import run"),
        ("daskgmm.engine.run", "from ..fitting.em import Run"),
        ("daskgmm.fitting.em", "import daskgmm.estimators.gaussian_mixture"),
        ("daskgmm.persistence.reading", "from ..estimators.base import BaseMixture"),
        ("daskgmm.diagnostics.summary", "from ..estimators import base"),
        ("daskgmm.estimators.rows", "from .. import cli"),
        ("daskgmm.data.write", "from .. import __version__"),
        ("daskgmm.data.write", "import daskgmm"),
    ],
    ids=str,
)
def test_an_import_that_runs_backwards_is_found(statement, form, tmp_path):
    name, line = statement
    file = tmp_path / "module.py"
    file.write_text(form.format(line))
    assert backwards(imports_of(name, file, modules()))


# ---- circles


def circle_of(found):
    """Names of modules that import each other in a circle; None where there is none."""
    edges = {name: set() for name in found}
    for name, path in found.items():
        edges[name].update(one.target for one in imports_of(name, path, found) if one.target in found)
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def test_no_modules_import_each_other_in_a_circle():
    assert circle_of(modules()) is None


@pytest.mark.skipif(not BENCHMARKS.exists(), reason="needs the source tree")
def test_no_benchmarks_import_each_other_in_a_circle():
    found = modules_below(BENCHMARKS, BENCHMARKS)  # scripts run where they lie, and import each other from there
    assert {"machine", "contest.contestants"} <= set(found)
    assert circle_of(found) is None


@in_every_form
@pytest.mark.parametrize(
    "statements",
    [
        {"a": "import p.b", "b": "import p.a"},
        {"a": "from .b import x", "b": "from . import a"},
        {"a": "from p.b import x", "b": "from .c import x", "c": "from . import a"},
        {"__init__": "from .a import x", "a": "from . import x"},
        {"a": "from . import a"},
    ],
    ids=str,
)
def test_a_circle_is_found(statements, form, tmp_path):
    package = tmp_path / "p"
    package.mkdir()
    for name, line in {"__init__": "", "z": "import p.a", **statements}.items():
        package.joinpath(f"{name}.py").write_text(form.format(line or "pass"))
    circle = circle_of(modules_below(package, tmp_path))
    assert set(circle) == {"p" if name == "__init__" else f"p.{name}" for name in statements}


@in_every_form
def test_a_circle_of_scripts_is_found(form, tmp_path):
    folder = tmp_path / "contest"
    folder.mkdir()
    folder.joinpath("report.py").write_text(form.format("from contest.plots import draw"))
    folder.joinpath("plots.py").write_text(form.format("import script"))
    tmp_path.joinpath("script.py").write_text(form.format("from contest.report import write"))
    assert set(circle_of(modules_below(tmp_path, tmp_path))) == {"contest.report", "contest.plots", "script"}


def test_what_only_looks_like_a_circle_is_none(tmp_path):
    tmp_path.joinpath("a.py").write_text("from b import x\nfrom c import x\n")
    tmp_path.joinpath("b.py").write_text("from c import x\nimport json\n")
    tmp_path.joinpath("c.py").write_text("import os\n")
    assert circle_of(modules_below(tmp_path, tmp_path)) is None


def test_modules_are_imported_by_statements():
    """Imports that a string names could not be counted; public names are looked up by them, in one place."""
    for name, path in modules().items():
        assert name == "daskgmm" or not re.search(r"\bimport_module\b|\b__import__\b", path.read_text()), name


def test_packages_from_outside_are_imported_where_they_belong():
    for found in all_imports():
        root = found.target.partition(".")[0]
        if found.inside or root in sys.stdlib_module_names:
            continue
        assert root in EXTERNAL, found
        assert unit_of(found.importer) in EXTERNAL[root], found
        assert root not in OPTIONAL or not found.top_level, found


def test_the_mathematics_know_nothing_of_dask_and_zarr():
    roots = {f.target.partition(".")[0] for f in all_imports() if unit_of(f.importer) == "core"}
    assert roots - sys.stdlib_module_names == {"numpy", "scipy", "numba", "daskgmm"}


@pytest.mark.skipif(not PYPROJECT.exists(), reason="needs the source tree")
def test_what_is_imported_is_declared():
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    distributions = {"sklearn": "scikit-learn", "PIL": "pillow", "yaml": "pyyaml"}

    def names(requirements):
        return {re.match(r"[\w-]+", line).group() for line in requirements}

    required = names(project["dependencies"])
    optional = required.union(*(names(lines) for lines in project["optional-dependencies"].values()))
    for found in all_imports():
        root = found.target.partition(".")[0]
        if not found.inside and root not in sys.stdlib_module_names:
            name = distributions.get(root, root)
            at_once = found.top_level and found.importer not in ON_DEMAND
            assert name in (required if at_once else optional), found


# ---- no structure is asked for by name


COMPARISON = re.compile(
    r"(covariance_type|structure\.name|structure)\s*(==|!=|\bis\b(?! not None| None)|\bin\b|\bnot in\b)\s*['\"\[({]"
    r"|['\"]\s*(==|!=)\s*[\w.]*(covariance_type|structure)|match\s+[\w.]*(covariance_type|structure)"
)


@pytest.mark.parametrize("name", sorted(modules()))
def test_no_structure_is_asked_for_by_name(name):
    assert not COMPARISON.search(modules()[name].read_text())


@pytest.mark.parametrize(
    "line",
    [
        'if self.covariance_type == "full":',
        "if covariance_type in ('full', 'tied'):",
        "if structure.name != 'diag':",
        "if 'full' == self.covariance_type:",
        "match self.covariance_type:",
    ],
)
def test_a_question_for_the_structure_is_found(line):
    assert COMPARISON.search(line)


def test_names_of_structures_stand_in_one_place():
    # Documentation and scikit-learn's vocabulary aside: no other code knows them.
    places = {
        name
        for name, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in set(STRUCTURES) - {"full"}
    }
    assert places == {"daskgmm.names"}


# ---- public names


def test_public_names_are_those_in_all():
    assert dir(daskgmm) == sorted([*daskgmm.__all__, "__version__"])
    assert daskgmm.__all__ == sorted(daskgmm.__all__)
    for name in daskgmm.__all__:
        assert getattr(daskgmm, name) is getattr(daskgmm, name)
    with pytest.raises(AttributeError, match="module 'daskgmm' has no attribute 'GausianMixture'"):
        daskgmm.GausianMixture  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'GausianMixture'"):
        from daskgmm import GausianMixture  # noqa: F401


def test_tools_that_read_the_package_see_the_public_names():
    """Type checkers and editors do not run `__getattr__`."""
    tree = ast.parse(PACKAGE.joinpath("__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    declared = {alias.asname for node in block.body for alias in node.names}
    assert declared == set(daskgmm.__all__)


@pytest.mark.parametrize("name", daskgmm.__all__)
def test_public_names_exist_and_are_documented(name):
    assert inspect.getdoc(getattr(daskgmm, name))


def test_every_event_is_public():
    for module in ("daskgmm.engine.events", "daskgmm.fitting.events"):
        for name, value in vars(importlib.import_module(module)).items():
            if isinstance(value, type) and value.__module__ == module:
                assert name in events.__all__
                assert getattr(events, name) is value
    assert set(events.__all__) == {name for name in vars(events) if name[0].isupper()}


def test_every_module_is_documented():
    for name, path in modules().items():
        assert ast.get_docstring(ast.parse(path.read_text())) or name == "daskgmm.__main__", name


@pytest.mark.parametrize("name", sorted(name for name, path in modules().items() if path.name == "__init__.py"))
def test_a_package_lists_its_modules(name):
    listed = set(re.findall(r"^(\w+) {2,}\S", ast.get_docstring(ast.parse(modules()[name].read_text())), re.MULTILINE))
    below = {module.rpartition(".")[2] for module in modules() if module.rpartition(".")[0] == name}
    assert name == "daskgmm" or listed == below


RIDDLE = re.compile(
    r"(What|Whether|That|How|Where|Why|Who|Which|When|It|They|The same|Of|So|As|Said|Asked|Told|None)\b"
)


def first_lines(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            yield getattr(node, "lineno", 1), ast.get_docstring(node).partition("\n")[0]


@pytest.mark.parametrize("name", sorted(modules()))
def test_docstrings_begin_with_a_noun_phrase_or_an_imperative(name):
    assert not [(line, text) for line, text in first_lines(modules()[name]) if RIDDLE.match(text)]


def test_every_module_can_be_imported():
    for name in modules().keys() - {"daskgmm.__main__"}:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name not in OPTIONAL | {"numba"}:  # extras, and what some versions of Python have to do without
                raise


# ---- the exception tree


TREE = re.compile(r"^(?P<indent>[│ ]*)(?:├── |└── )(?P<name>\w+)\s*(?:\((?P<bases>[\w, ]+)\))?\s+\S", re.MULTILINE)


def own_classes():
    return {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and value.__module__ == errors.__name__
    }


def drawn():
    """Name -> (parent in the tree, bases in brackets), read from the module's docstring."""
    text = inspect.getdoc(errors)
    nodes, parents = {"DaskGMMError": (None, ())}, {-1: "DaskGMMError"}
    for match in TREE.finditer(text):
        depth = len(match["indent"]) // 4 - 1  # the drawing is indented as a whole
        parents[depth] = match["name"]
        nodes[match["name"]] = (parents[depth - 1], tuple((match["bases"] or "").replace(" ", "").split(",")))
    warnings = re.findall(r"^ *(\w+Warning)\s+\((\w+)\)", text, re.MULTILINE)
    return nodes | {name: (None, (base,)) for name, base in warnings}


def test_every_exception_stands_in_the_tree():
    assert drawn().keys() == own_classes().keys()


@pytest.mark.parametrize("name", sorted(own_classes()))
def test_the_tree_tells_the_truth(name):
    parent, bases = drawn()[name]
    kind = own_classes()[name]
    if parent is not None:
        assert kind.__bases__[0] is getattr(errors, parent)
    for base in filter(None, bases):
        assert issubclass(kind, getattr(__import__("builtins"), base))
    direct = {b.__name__ for b in kind.__bases__[1:]}
    assert direct <= set(bases)


def test_every_error_but_the_warnings_is_a_dask_gmm_error():
    for kind in own_classes().values():
        assert issubclass(kind, errors.DaskGMMError | Warning)


# ---- what an import brings


def run_python(code):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_an_import_brings_nothing_that_is_not_needed():
    loaded = run_python("import sys, json, daskgmm; print(json.dumps(sorted(sys.modules)))")
    unwanted = {"matplotlib", "PIL", "IPython", "numba", "cupy", "obstore", "pytest", "hypothesis", "dask.dataframe"}
    unwanted |= {"daskgmm.cli", "daskgmm.demo", "daskgmm.jobs"}
    assert not unwanted & set(loaded)


INTEROP = {
    "xarray", "pandas", "polars", "pyarrow", "h5py", "netCDF4", "h5netcdf", "s3fs", "obstore", "icechunk", "aiohttp",
    "skops", "onnxruntime", "skl2onnx", "matplotlib", "PIL", "astropy", "cf_xarray", "zarrs", "numba", "IPython",
}  # fmt: skip


def test_public_names_bring_no_optional_package_that_others_do_not_bring():
    """Where they are installed, Dask imports pandas, and scikit-learn's estimators xarray."""
    code = """
import json, sys
import dask.array, distributed, zarr, sklearn.mixture
before = set(sys.modules)
import daskgmm
for name in daskgmm.__all__:
    getattr(daskgmm, name)
print(json.dumps(sorted(set(sys.modules) - before)))
"""
    assert not INTEROP & set(run_python(code))


HEAVY = {"numpy", "scipy", "sklearn", "dask", "distributed", "zarr", "numba", "pandas", "fsspec", "rich"}


@pytest.mark.parametrize(
    ("arguments", "complete"),
    [
        (["--help"], ""),
        (["--version"], ""),
        (["fit", "--help"], ""),
        (["select", "--help"], ""),
        (["demo", "--help"], ""),
        ([], "daskgmm "),
        ([], "daskgmm fit data.zarr --covariance-type "),
        ([], "daskgmm predict --missing-chunks fill --"),
        ([], "daskgmm fit data.zarr --memory-limit 2GB --init-"),
    ],
    ids=str,
)
def test_help_and_completions_import_no_package_that_takes_long(arguments, complete):
    code = f"""
import atexit, json, sys
sys.argv[1:] = {arguments!r}
atexit.register(lambda: print("MODULES", json.dumps(sorted(sys.modules))))
from daskgmm.cli import main
main()
"""
    completion = {"_DASKGMM_COMPLETE": "bash_complete", "COMP_WORDS": complete, "COMP_CWORD": str(complete.count(" "))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env=os.environ | (completion if complete else {}),
    )
    told, _, loaded = done.stdout.rpartition("MODULES")
    assert told.strip(), "neither help nor a completion"
    assert not HEAVY & set(json.loads(loaded))


def test_choices_that_the_terminal_offers_are_those_that_there_are():
    from daskgmm import names
    from daskgmm.core.acceleration import ACCELERATIONS
    from daskgmm.core.concentration import WEIGHT_DISTRIBUTIONS
    from daskgmm.fitting.initialization import METHODS

    assert tuple(STRUCTURES)[: len(names.COVARIANCE_TYPES)] == names.COVARIANCE_TYPES  # a test may add others
    assert tuple(METHODS) == names.INIT_METHODS
    assert tuple(ACCELERATIONS) == names.ACCELERATIONS
    assert tuple(WEIGHT_DISTRIBUTIONS) == names.WEIGHT_PRIORS
    for kind in (daskgmm.GaussianMixture, daskgmm.BayesianGaussianMixture):
        defaults = {name: value for name, value in kind().get_params().items() if hasattr(names.Defaults, name)}
        assert defaults == {name: getattr(names.Defaults, name) for name in defaults}


@pytest.mark.slow
def test_optional_packages_may_be_absent():
    # Dask and scikit-learn import pandas and xarray where they are; we must do without.
    code = """
import sys, json
class Absent:
    names = {"pandas", "xarray", "pyarrow", "matplotlib", "PIL", "obstore", "numba", "bokeh"}
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import warnings
import dask.array as da
import numpy as np
import daskgmm
x = np.random.RandomState(0).normal(size=(50, 2))
model = daskgmm.GaussianMixture(2, random_state=0, tol=0.1).fit(da.from_array(x, chunks=20))
labels = model.predict(da.from_array(x, chunks=20)).compute()
print(json.dumps([len(labels), sorted(Absent.names & set(sys.modules))]))
"""
    assert run_python(code) == [50, []]


def test_types_are_shipped():
    assert (PACKAGE / "py.typed").exists()
    assert re.fullmatch(r"\d+\.\d+\.\d+", daskgmm.__version__)
