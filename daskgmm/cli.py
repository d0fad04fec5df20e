"""Commands of the terminal: each reads its options, calls one function of `daskgmm.jobs`, and shows the record.

Results go to standard output, progress and messages to standard error. The exit status is 0, or 1 after a failure, 2
for a command line that makes no sense, and 130 after Ctrl-C.

Commands import other packages only when they run: help and completions must not wait for NumPy, Dask and scikit-learn.
"""

from __future__ import annotations

import io
import json
import logging
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from . import options
from .errors import DaskGMMError
from .messages import Messages, option_names
from .names import NONE
from .version import __version__

if TYPE_CHECKING:
    from .diagnostics.progress import ProgressBar
    from .jobs import Compute


def _command(name: str, *example: str) -> Callable[[Callable[..., Any]], click.Command]:
    lines = "\n".join(f"  {line}" for line in example)
    return _cli.command(name, epilog=f"\b\nExample:\n{lines}", context_settings={"max_content_width": 100})


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="daskgmm")
def _cli() -> None:
    """Gaussian mixtures of data that do not fit in memory.

    DATA is the path or URL of a Zarr array of rows × features; DATA::NAME means an array inside a group. Arrays of more
    dimensions need --dim or --feature-axis. DATA may also be a table (.parquet, .csv; a folder or pattern of parts;
    DATA::a,b means columns), a netCDF or HDF5 file (.nc, .h5; DATA::NAME), or a NumPy file (.npy, .npz), where the
    library for such files is installed.

    `daskgmm COMMAND --help` lists a command's options, with an example.
    """


@_command("fit", "daskgmm fit data.zarr -k 16 --model model.zarr --random-state 0")
@options.data
@click.option("--model", metavar="MODEL", help="Path or URL to save the model to; required without --plan.")
@click.option("--plan", is_flag=True, help="Print the passes and the memory of the fit, and end without fitting.")
@options.estimator
@options.fitting
def _fit(data: str, array: str | None, model: str | None, plan: bool, weights: str | None, **values: Any) -> None:
    """Fit a mixture to DATA, an array or table of rows × features, and save it."""
    if model is None and not plan:
        raise click.UsageError("Missing option '--model'.")
    if values["n_components"] is None and values["warm_start"] is None:
        raise click.UsageError("Missing option '-k' / '--n-components'.")
    with _running(values, starts_workers=not plan) as (jobs, callbacks):
        as_json = values.pop("as_json")
        rows = jobs.Rows(data, array, weights, **_of_rows(values))
        parameters, others = _split(values, "bayesian", "warm_start", "overwrite")
        if model is None or plan:
            planned = jobs.plan(
                rows, parameters, **{name: others[name] for name in ("bayesian", "warm_start", "compute")}
            )
            _show(planned.as_record() if as_json else planned.as_text(), as_json)
            return
        record = jobs.fit(rows, model, parameters, callbacks=callbacks, **others)
    _show(record, as_json)


@_command("select", "daskgmm select data.zarr -k 1:20 --covariance-types full,diag --model best.zarr --plot bic.png")
@options.data
@options.candidates
@click.option("--model", metavar="MODEL", help="Path or URL to save the best model to.")
@click.option("--plot", "picture", metavar="FILE", help="Draw the criterion: a .png, .pdf or .svg file.")
@options.em
@options.fitting
def _select(data: str, array: str | None, weights: str | None, as_json: bool, **values: Any) -> None:
    """Fit mixtures with several numbers of components to DATA, and show which one describes it best.

    All fits share every reading of the data.
    """
    with _running(values) as (jobs, callbacks):
        candidates = jobs.Candidates(**{name: values.pop(name) for name in jobs.Candidates.names()})
        rows = jobs.Rows(data, array, weights, **_of_rows(values))
        parameters, others = _split(values, "bayesian", "model", "picture", "overwrite")
        record = jobs.select(rows, candidates, parameters, callbacks=callbacks, **others)
    _show(record, as_json)


@_command("predict", "daskgmm predict data.zarr --model model.zarr --output classes.zarr --probabilities")
@options.data
@options.model
@options.output
@click.option("--probabilities", is_flag=True, help="Write the probability of every component, too.")
@click.option("--log-density", is_flag=True, help="Write the log-density of every row, too.")
@click.option(
    "--outliers",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="Write whether a row is one of this share of the rows with the lowest density, too.",
)
@options.missing
@options.compute
@options.overwrite
@options.as_json
@options.quiet
def _predict(data: str, array: str | None, model: str, output: str, as_json: bool, **values: Any) -> None:
    """Write the most probable component of every row of DATA."""
    with _running(values) as (jobs, callbacks):
        compute = _compute(values)
        rows = jobs.Rows(data, array, **_of_rows(values))
        record = jobs.predict(rows, model, output, compute=compute, callbacks=callbacks, **values)
    _show(record, as_json)


@_command("score", "daskgmm score data.zarr --model model.zarr --json")
@options.data
@options.model
@options.weights
@options.missing
@options.compute
@options.as_json
@options.quiet
def _score(data: str, array: str | None, model: str, weights: str | None, as_json: bool, **values: Any) -> None:
    """Compute the mean log-density of the rows of DATA, and information criteria."""
    with _running(values) as (jobs, callbacks):
        compute = _compute(values)
        rows = jobs.Rows(data, array, weights, **_of_rows(values))
        record = jobs.score(rows, model, compute=compute, callbacks=callbacks, **values)
    _show(record, as_json)


@_command("sample", "daskgmm sample model.zarr -n 1000 --output drawn.zarr")
@click.argument("model")
@options.storage_options
@click.option("-n", "--n-samples", type=click.IntRange(min=1), required=True, help="Rows to draw.")
@options.output
@options.random_state
@options.overwrite
@options.as_json
def _sample(model: str, n_samples: int, output: str, as_json: bool, **values: Any) -> None:
    """Draw rows from MODEL."""
    from . import jobs

    with _usage_errors(jobs.WrongArguments):
        record = jobs.sample(model, n_samples, output, **values)
    _show(record, as_json)


@_command("inspect", "daskgmm inspect model.zarr")
@click.argument("path")
@options.storage_options
@options.as_json
def _inspect(path: str, storage_options: dict[str, Any] | None, as_json: bool) -> None:
    """Describe the contents of PATH: a model, results, samples or data."""
    from .inspection import store_record

    _show(store_record(path, storage_options), as_json)


@_command("demo", "daskgmm demo --output daskgmm-demo")
@click.option("-o", "--output", default="daskgmm-demo", show_default=True, metavar="DIR", help="Directory to write to.")
@options.as_json
@options.quiet
def _demo(output: str, as_json: bool, quiet: bool) -> None:
    """Segment two photographs, pixel by pixel, out of core, on worker processes of this machine."""
    with _progress(quiet, starts_workers=True) as callbacks:
        from .demo import run_demo

        record = run_demo(output, callbacks=callbacks)
    _show(record, as_json)


# ---- parts that commands share


@contextmanager
def _running(values: dict[str, Any], *, starts_workers: bool = True) -> Iterator[tuple[Any, tuple[ProgressBar, ...]]]:
    """Yield the module of jobs, which takes seconds to import, and the callbacks of the progress display."""
    _check_compute(values)
    starts_workers &= bool(values["workers"] or values["memory_limit"])
    with _progress(values.pop("quiet"), starts_workers) as callbacks:
        from . import jobs

        with _usage_errors(jobs.WrongArguments):
            yield jobs, callbacks


@contextmanager
def _progress(quiet: bool, starts_workers: bool) -> Iterator[tuple[ProgressBar, ...]]:
    """Yield the progress display of a command; if workers have to start first, the display begins at once."""
    from .diagnostics.progress import ProgressBar
    from .engine.events import EngineClosed, Waiting

    bar = ProgressBar()
    try:
        if starts_workers and not quiet:
            bar(Waiting("loading packages"))
        yield () if quiet else (bar,)
    finally:
        bar(EngineClosed(failed=True))


@contextmanager
def _usage_errors(kind: type[Exception]) -> Iterator[None]:
    """Turn errors of one kind into usage errors of the command line."""
    try:
        yield
    except kind as error:
        raise click.UsageError(str(error)) from error


def _check_compute(values: dict[str, Any]) -> None:
    if values["scheduler"] and (values["workers"] or values["threads"] or values["memory_limit"]):
        raise click.UsageError("--scheduler excludes --workers, --threads and --memory-limit: they are the cluster's.")
    if values.get("resume") and values["checkpoint"] is None:
        raise click.UsageError("--resume needs --checkpoint PATH.")


def _of_rows(values: dict[str, Any]) -> dict[str, Any]:
    """Values of options about the data."""
    return {name: values.pop(name) for name in ("storage_options", "dim", "feature_axis")}


def _split(values: dict[str, Any], *names: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the values of options into parameters of the estimator and arguments of the job."""
    from .jobs import CheckpointOptions

    checkpoint_options = CheckpointOptions(values.pop("checkpoint"), values.pop("resume"))
    others = {
        "checkpoint_options": checkpoint_options,
        "compute": _compute(values),
        **{name: values.pop(name) for name in names},
    }
    given = {name: value for name, value in values.items() if value is not None}
    return {name: None if value == NONE else value for name, value in given.items()}, others


def _compute(values: dict[str, Any]) -> Compute:
    from .jobs import Compute

    return Compute(*(values.pop(name) for name in ("scheduler", "workers", "threads", "memory_limit")))


# ---- results and errors


def _show(record: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(_finite(record), allow_nan=False, indent=2))
        return
    from .diagnostics.summary import print_record

    print_record(record)


def _finite(value: Any) -> Any:
    """Replace NaN and infinities, which JSON does not have, by None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Parameters
    ----------
    arguments : sequence of str, optional
        None: the arguments of this process.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character is no reason to fail
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = next((_cli.commands[word] for word in words if word in _cli.commands), None)
    messages = Messages(words, option_names(command))
    try:
        with _plain_warnings(messages):
            _cli.main(args=words, prog_name="daskgmm", standalone_mode=False)
    except click.Abort as error:
        messages.show("", "interrupted")
        messages.show_notes(error.__cause__ or error.__context__)
        return 130
    except click.ClickException as error:
        messages.show_usage(error)
        return error.exit_code
    except (DaskGMMError, ValueError, TypeError, OSError, MemoryError, OverflowError, RecursionError) as error:
        messages.show_error(error)
        return 1
    return 0


@contextmanager
def _plain_warnings(messages: Messages) -> Iterator[None]:
    """Print warnings for users in one line each, and leave out warnings for programmers."""
    logger = logging.getLogger("asyncio")  # reports tasks that an interrupt or an error cut off
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_: messages.show("warning", str(message))
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)
