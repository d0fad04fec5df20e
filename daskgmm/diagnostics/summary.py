"""Records of models, stores, checkpoints and selections as tables for people."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from dask.utils import format_bytes
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..core.covariance import STRUCTURES
from ..criteria import CRITERIA
from ..names import Defaults
from ..persistence.checkpoint import KIND
from .digits import mean_text, total_text
from .progress import rows_per_second
from .selection_view import SelectionTable, selection_summary

Record = dict[str, Any]

_MOST_FEATURES, _MOST_COMPONENTS, _MOST_MATRICES = 6, 40, 6
_MEANS = ("log_likelihood", "lower_bound")
_ALWAYS = ("tol", "random_state")  # settings that are shown even with their defaults
_IN_THE_FIRST_LINE = ("n_components", "covariance_type")
_WIDTH = 100  # of tables if standard output is no terminal


def print_record(record: Record, console: Console | None = None) -> None:
    """Print a record as tables on standard output."""
    console = console or Console(width=None if sys.stdout.isatty() else _WIDTH, markup=False, emoji=False)
    console.print(render(record), highlight=False)


def render(record: Record) -> RenderableType:
    """Make the tables of a record."""
    if record.get("kind") == "selection":
        more: Record = {name: record[name] for name in ("seconds", "model", "plot") if name in record}
        return Group(SelectionTable(record), Text(selection_summary(record)), _fields(more))
    if record.get("kind") == KIND:
        return _fields(_checkpoint_fields(record))
    if "means" in record:
        return Group(_components(record), *_covariances(record), _fields(_model_fields(record)))
    if "path" in record and "arrays" in record:
        plain = {key: value for key, value in record.items() if key != "arrays"}
        return Group(_fields(plain), _arrays(record["arrays"]))
    return _fields(record | _criteria(record))


def _criteria(record: Record) -> dict[str, str]:
    """Log-likelihoods and information criteria as texts with significant digits, see `digits`."""
    n_rows = record.get("n_rows")
    means = {name: f"{mean_text(record[name], n_rows)} nats per row" for name in _MEANS if _is_number(record, name)}
    return means | {name: total_text(record[name]) for name in CRITERIA if _is_number(record, name)}


def _is_number(record: Record, name: str) -> bool:
    value = record.get(name)
    return isinstance(value, float) and math.isfinite(value)


def _model_fields(record: Record) -> Record:
    shown = {
        "mixture": f"{record['estimator']}, {record['n_components']} components, {record['n_features']} features, "
        f"{record['covariance_type']} covariance",
        "converged": _ending(record),
        "cost": None if record["n_passes"] is None else _cost(record["n_passes"], record["history"]),
    }
    if record["environment"]:
        shown["fitted with"] = _software(record["environment"])
    shown |= _origin_fields(record)
    texts = _criteria({"n_rows": _rows_of_fit(record), **record})
    shown |= {name.replace("_", "-"): texts.get(name, record[name]) for name in _MEANS if record.get(name) is not None}
    hidden = {
        "kind",
        "estimator",
        "covariance_type",
        "n_components",
        "n_features",
        "feature_names",
        "converged",
        "n_iter",
    }
    hidden |= {
        "n_passes",
        "history",
        "environment",
        "origin",
        "settings",
        "covariances",
        "log_likelihood",
        "lower_bound",
        "weights",
        "means",
        "standard_deviations",
    }
    return shown | {key: value for key, value in record.items() if key not in hidden}


def _origin_fields(record: Record) -> Record:
    """Settings, data and date of a fit, without unknown ones."""
    settings = {
        name: value
        for name, value in record["settings"].items()
        if name in _ALWAYS or (value != getattr(Defaults, name, None) and name not in _IN_THE_FIRST_LINE)
    }
    shown: Record = {"settings": {name: _setting(value) for name, value in settings.items()}}
    origin = record["origin"]
    if origin is not None:
        weights = origin["sample_weight"]
        shown["data"] = _array_words(origin["data"]) + (f"; weights: {_array_words(weights)}" if weights else "")
        if origin["n_incomplete"]:
            shown["left out"] = f"{origin['n_incomplete']:,} incomplete rows"
        shown["fitted"] = f"{origin['date'][:16].replace('T', ' ')} UTC"
    return shown


def _setting(value: Any) -> Any:
    """Format a parameter as a user types it: a seed without thousands separators."""
    if isinstance(value, list):
        return "given"
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _array_words(origin: Record) -> str:
    n_rows, *columns = origin["shape"]
    shape = f"{n_rows:,} rows" + (f" × {columns[0]:,} features" if columns else "")
    return f"{origin['address'] or origin['kind']}, {shape}, {origin['dtype']}"


def _rows_of_fit(record: Record) -> int | None:
    origin = record["origin"]
    return None if origin is None else origin["data"]["shape"][0] - origin["n_incomplete"]


def _ending(record: Record) -> str:
    """Convergence and iterations of the fit; unknown for a model made by hand or from an old file."""
    converged = "not known" if record["converged"] is None else _word(record["converged"])
    return converged if record["n_iter"] is None else f"{converged}, {record['n_iter']} iterations"


def _checkpoint_fields(record: Record) -> Record:
    settings, data = record["settings"], record["data"]
    running = record["n_running"]
    return {
        "checkpoint": record["path"],
        "written": f"{_age(record['age_seconds'])} ago, after {record['n_passes']} passes",
        "finished": "yes" if record["finished"] else f"no, {running} start{'s' * (running != 1)} running",
        "iterations": record["n_iter"],
        "mixture": f"{settings['estimator']}, {_word(settings['n_components'])} components, "
        f"{_word(settings['covariance_type'])} covariance",
        "data": f"{data['n_rows']:,} rows × {data['n_features']} features, {data['dtype']}"
        + (", weighted" if data["sample_weight"] else ""),
    }


def _age(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit or (name == "min" and seconds >= unit):
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"


def _software(environment: Mapping[str, str]) -> str:
    """Software and processor, on which the last bits of a fit depend, in one line."""
    words = {"daskgmm": "daskgmm {}", "numpy": "numpy {}", "loops": "loops by {}", "blas": "{}", "cpu": "{}"}
    text = ", ".join(word.format(environment[name]) for name, word in words.items() if name in environment)
    return f"{text}; workers: {environment['workers']}" if "workers" in environment else text


def _cost(n_passes: int, history: Sequence[Record]) -> str:
    """Passes, rate and arithmetic of a fit, in one line."""
    kinds = Counter(passed["kind"] for passed in history if passed["kind"] != "sample")
    passes = [passed for passed in history if passed["kind"] not in ("survey", "sample")]
    text = f"{n_passes} passes ({', '.join(f'{n} {kind}' for kind, n in kinds.items())})"
    if passes:
        arithmetic = ", ".join(sorted({passed["arithmetic"] for passed in passes}))
        rate = rows_per_second(float(np.median([passed["rows_per_second"] for passed in passes])))
        last = passes[-1]
        size = format_bytes(last["bytes_read"] + last["bytes_cached"])
        kept = f" ({format_bytes(last['bytes_read'])} read in the last)" if last["bytes_cached"] else ""
        text += f" over {size}{kept} at {rate}, {arithmetic}"
    sampled = sum(passed["n_iter"] for passed in history if passed["kind"] == "sample")
    return f"{text}; {sampled} iterations on samples" if sampled else text


def _components(record: Record) -> Table:
    table = Table(caption_justify="left", caption=_omitted(record))
    table.add_column("component", justify="right")
    table.add_column("weight", justify="right")
    for name in record["feature_names"][:_MOST_FEATURES]:
        table.add_column(_word(name), justify="right")
    for k in np.argsort(record["weights"])[::-1][:_MOST_COMPONENTS].tolist():
        pairs = zip(record["means"][k], record["standard_deviations"][k], strict=True)
        cells = [_interval(mean, deviation) for mean, deviation in list(pairs)[:_MOST_FEATURES]]
        table.add_row(str(k), f"{record['weights'][k]:.4f}", *cells)
    return table


def _covariances(record: Record) -> list[RenderableType]:
    """Table of covariance matrices (lower triangles) of the heaviest components; none for diagonal covariances."""
    structure, n_features = STRUCTURES[record["covariance_type"]], record["n_features"]
    if not structure.has_matrices or n_features == 1:
        return []
    matrices = np.reshape(record["covariances"], (-1, n_features, n_features))
    shared = len(matrices) < record["n_components"]
    numbers = [0] if shared else np.argsort(record["weights"])[::-1][:_MOST_MATRICES].tolist()
    names = record["feature_names"][:_MOST_FEATURES]
    more = 0 if shared else len(matrices) - len(numbers)
    table = Table(caption_justify="left", caption=f"and {more} more components: see --json" if more else None)
    for name in ("component", "covariance", *names):
        table.add_column(_word(name), justify="left" if name == "covariance" else "right")
    for k in numbers:
        for i, name in enumerate(names):
            cells = [f"{value:.4g}" for value in matrices[k, i, : i + 1]]
            table.add_row(("all" if shared else str(k)) if i == 0 else "", _word(name), *cells)
    return [table]


def _interval(mean: float, deviation: float) -> str:
    if not 1e-4 < deviation < 1e6:
        return f"{mean:.6g} ± {deviation:.3g}"
    digits = max(0, 2 - math.floor(math.log10(deviation)))  # three significant digits of the deviation
    return f"{mean:,.{digits}f} ± {deviation:,.{digits}f}"


def _omitted(record: Record) -> str | None:
    features = record["n_features"] - _MOST_FEATURES
    components = record["n_components"] - _MOST_COMPONENTS
    parts = [f"{n} more {what}" for n, what in ((components, "components"), (features, "features")) if n > 0]
    return f"and {' and '.join(parts)}: see --json" if parts else None


def _fields(record: Mapping[str, Any]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    for key, value in record.items():
        if value is not None:
            table.add_row(_word(key.removeprefix("n_").replace("_", " ")), _word(value))
    return table


def _arrays(arrays: Mapping[str, Record]) -> Table:
    table = Table()
    for column in ("array", "shape", "dtype", "chunks", "size", "stored"):
        table.add_column(column)
    for name, array in arrays.items():
        stored = format_bytes(array["bytes_stored"]) if "bytes_stored" in array else ""
        shape, chunks = _word(array["shape"]), _word(array.get("chunks") or "")
        table.add_row(_word(name), shape, array["dtype"], chunks, format_bytes(array["bytes"]), stored)
    return table


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{_word(key)} {_word(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return (" × " if all(isinstance(n, int) for n in value) else ", ").join(map(_word, value))
    if isinstance(value, int):
        return f"{value:,}"
    text = f"{value:.8g}" if isinstance(value, float) else str(value)
    return "".join(c if c.isprintable() else "?" for c in text)  # names from a file may contain escape sequences
