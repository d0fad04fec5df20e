"""The terminal's interface: each command reads its options, calls one function of `daskgmm.jobs`, and shows the record.

Results go to standard output, progress and messages to standard error. The exit status is 0, 1 where something failed,
2 for a command line that makes no sense, and 130 after Ctrl-C.
"""

from __future__ import annotations

import io
import json
import logging
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, TypeVar

import click
import dask
from dask.utils import parse_bytes

from . import __version__, jobs
from .core.acceleration import ACCELERATIONS
from .core.concentration import WEIGHT_DISTRIBUTIONS
from .core.covariance import STRUCTURES
from .data.addresses import Secrets, printable
from .data.config import MISSING_CHUNKS
from .demo import run_demo
from .diagnostics.summary import print_record, store_record
from .errors import DaskGMMError
from .estimators.grid import CHOICES
from .fitting.initialization import METHODS

_LONGEST_MESSAGE = 4000

F = TypeVar("F", bound=Callable[..., Any])
_DEFAULTS = {
    name: value for b in (True, False) for name, value in jobs.kind_of_model(bayesian=b)().get_params().items()
}


class _Bytes(click.ParamType[int]):
    name = "bytes"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        try:
            size = int(parse_bytes(value))
        except (ValueError, OverflowError):
            size = 0
        if size < 1:
            self.fail(f"{value!r} is not a size such as 500MB, 2GB or 1GiB", param, ctx)
        return size


class _Starts(click.ParamType[int | str]):
    name = "integer|auto"

    def convert(self, value: Any, param: Any, ctx: Any) -> int | str:
        return "auto" if value == "auto" else click.IntRange(min=1).convert(value, param, ctx)


class _Numbers(click.ParamType[list[int]]):
    name = "numbers"

    def convert(self, value: Any, param: Any, ctx: Any) -> list[int]:
        try:
            return [number for part in value.split(",") for number in _range(part)]
        except ValueError:
            self.fail(f"{value!r} is not a list such as 1:20, 2,4,8 or 1:4,8,16", param, ctx)


def _range(part: str) -> range:
    first, colon, last = part.partition(":")
    return range(int(first), int(last if colon else first) + 1)


class _Names(click.ParamType[list[str]]):
    name = "names"

    def convert(self, value: Any, param: Any, ctx: Any) -> list[str]:
        return [name.strip() for name in value.split(",")]


# ---- options, each named once


def _together(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def _parameter(name: str, kind: Any, text: str) -> Callable[[F], F]:
    """Option for a parameter of the estimator, None where it is not given: defaults are named in one place."""
    default = _DEFAULTS[name]
    shown = "" if default is None else f"  [default: {default}]"
    return click.option(f"--{name.replace('_', '-')}", type=kind, help=text + shown)


def _set_missing_chunks(ctx: click.Context, _: Any, value: str | None) -> None:
    if value is not None:
        ctx.with_resource(dask.config.set({"daskgmm.missing-chunks": value}))


_positive = click.IntRange(min=1)
_above_zero = click.FloatRange(min=0, min_open=True)
_data = _together(
    click.argument("data"),
    click.option("--array", metavar="NAME", help="The array inside the group DATA, as DATA::NAME also says."),
    click.option(
        "--missing-chunks",
        type=click.Choice(MISSING_CHUNKS),
        callback=_set_missing_chunks,
        expose_value=False,
        help="What a chunk that is not in its store is: an error, or fill values.  [default: raise]",
    ),
)
_model = click.option("--model", required=True, metavar="MODEL", help="A model that `daskgmm fit` wrote.")
_output = click.option("--output", required=True, metavar="OUT", help="The Zarr group to write.")
_overwrite = click.option("--overwrite", is_flag=True, help="Replace an output of the same kind that daskgmm wrote.")
_weights = click.option(
    "--sample-weight", "weights", metavar="FILE", help="One weight for each row: a .npy file or a Zarr array."
)
_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
_quiet = click.option("--quiet", is_flag=True, help="No progress display.")
_seed = click.option(
    "--random-state", type=click.IntRange(0, 2**32 - 1), metavar="SEED", help="Makes draws repeatable."
)
_compute = _together(
    click.option("--scheduler", metavar="ADDRESS", help="A running Dask scheduler, such as tcp://host:8786."),
    click.option("--workers", type=_positive, help="Start this many worker processes on this machine."),
    click.option("--threads", type=_positive, help="Threads of each worker, or of this process."),
    click.option("--memory-limit", type=_Bytes(), metavar="SIZE", help="Memory of each worker process, such as 2GB."),
)
_keeping = _together(
    click.option("--checkpoint", metavar="PATH", help="Keep there, after every pass, what it takes to go on."),
    click.option("--resume", is_flag=True, help="Go on from --checkpoint, or begin where there is none yet."),
)
_climb = _together(
    _parameter("tol", click.FloatRange(min=0), "Stop when the mean log-likelihood changes by less, in nats per row."),
    _parameter("reg_covar", click.FloatRange(min=0), "Added to every variance, in squared units of the data."),
    _parameter("max_iter", click.IntRange(min=0), "Largest number of iterations."),
    _parameter("n_init", _Starts(), "Number of starts; the best one is kept."),
    _parameter("init_params", click.Choice(list(METHODS)), "How starts are made."),
    _parameter("init_size", click.IntRange(min=2), "Run starts on a sample of so many rows before they see all data."),
    _parameter("acceleration", click.Choice(list(ACCELERATIONS)), "Take larger steps than EM's where they lead up."),
    _parameter("verbose", click.IntRange(min=0), "1 prints iterations, 2 details, on standard error."),
    _parameter("verbose_interval", _positive, "Iterations between two such lines."),
    _seed,
)
_estimator = _together(
    click.option("-k", "--n-components", type=_positive, help="Number of components; required without --warm-start."),
    _parameter("covariance_type", click.Choice(list(STRUCTURES)), "What covariance matrices may look like."),
    _climb,
    _parameter("weights_init", str, "Initial weights: a .npy file or a Zarr array."),
    _parameter("means_init", str, "Initial means, likewise."),
    _parameter("precisions_init", str, "Initial inverses of the covariances, likewise."),
    click.option("--warm-start", metavar="MODEL", help="Go on from this model instead of making starts."),
)
_candidates = _together(
    click.option(
        "-k",
        "--n-components",
        type=_Numbers(),
        default="1:20",
        show_default=True,
        help="Numbers of components: 1:20 (both included), 2,4,8, or both.",
    ),
    click.option(
        "--covariance-types",
        type=_Names(),
        default="full",
        show_default=True,
        help=f"What covariance matrices may look like: {', '.join(STRUCTURES)}, with commas between several.",
    ),
    click.option(
        "--criterion",
        type=click.Choice(CHOICES),
        default=CHOICES[0],
        show_default=True,
        help="What decides: the lowest bic, aic or icl, or the highest likelihood of rows held out.",
    ),
    click.option("--held-out", type=float, metavar="SHARE", help="Share of the rows that no fit sees."),
    click.option("--patience", type=int, metavar="ITERATIONS", help="Give up candidates that could not win so long."),
)
_priors = _together(
    click.option("--bayesian", is_flag=True, help="With priors, by variational inference: -k is the largest number."),
    _parameter(
        "weight_concentration_prior_type", click.Choice(list(WEIGHT_DISTRIBUTIONS)), "Bayesian: prior of the weights."
    ),
    _parameter("weight_concentration_prior", _above_zero, "Its concentration; smaller, fewer components.  [1/k]"),
    _parameter("mean_precision_prior", _above_zero, "Bayesian: rows that the prior mean is worth.  [1]"),
    _parameter("degrees_of_freedom_prior", _above_zero, "The same of the prior covariance.  [number of features]"),
)


_ASKED = tuple(field.name for field in fields(jobs.Candidates))


# ---- commands


def _command(name: str, *example: str) -> Callable[[Callable[..., Any]], click.Command]:
    lines = "\n".join(f"  {line}" for line in example)
    return _cli.command(name, epilog=f"\b\nExample:\n{lines}", context_settings={"max_content_width": 100})


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="daskgmm")
def _cli() -> None:
    """Gaussian mixtures of data that do not fit in memory.

    DATA is the path or URL of a Zarr array of rows × features; DATA::NAME means an array inside a group.
    `daskgmm COMMAND --help` lists a command's options, with an example.
    """


@_command("fit", "daskgmm fit data.zarr -k 16 --model model.zarr --random-state 0")
@_data
@click.option("--model", metavar="MODEL", help="Where the model is to be saved; required without --plan.")
@click.option("--plan", is_flag=True, help="Tell what the fit would do and how much memory it would take, and end.")
@_estimator
@_priors
@_weights
@_keeping
@_compute
@_overwrite
@_json
@_quiet
def _fit(data: str, array: str | None, model: str | None, plan: bool, weights: str | None, **options: Any) -> None:
    """Fit a mixture to DATA, a Zarr array of rows × features, and save it."""
    if model is None and not plan:
        raise click.UsageError("Missing option '--model'.")
    as_json, compute, keeping = options.pop("as_json"), _taken_compute(options), _taken_keeping(options)
    others = {name: options.pop(name) for name in ("bayesian", "warm_start", "overwrite", "quiet")}
    given = {name: value for name, value in options.items() if value is not None}
    if "n_components" not in given and others["warm_start"] is None:
        raise click.UsageError("Missing option '-k' / '--n-components'.")
    if others["warm_start"] is None:
        _check_kind(given, bayesian=others["bayesian"])
    rows = jobs.Rows(data, array, weights)
    with _usage_errors():
        if model is None or plan:
            told = jobs.plan(rows, given, bayesian=others["bayesian"], warm_start=others["warm_start"], compute=compute)
            _show(told.as_record() if as_json else told.told(), as_json)
            return
        _show(jobs.fit(rows, model, given, keeping=keeping, compute=compute, **others), as_json)


def _check_kind(given: Mapping[str, Any], *, bayesian: bool) -> None:
    foreign = given.keys() - jobs.kind_of_model(bayesian=bayesian)().get_params().keys()
    if foreign:
        raise click.UsageError(f"{_as_options(foreign)}: not {'with' if bayesian else 'without'} --bayesian.")


@contextmanager
def _usage_errors() -> Iterator[None]:
    """Options that do not go together are a wrong command line, also where it takes a file to know."""
    try:
        yield
    except jobs.ForeignParameters as error:
        raise click.UsageError(f"{_as_options(error.names)}: the model of --warm-start is a {error.kind}.") from error


def _as_options(names: Iterable[str]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in sorted(names))


@_command("select", "daskgmm select data.zarr -k 1:20 --covariance-types full,diag --model best.zarr --plot bic.png")
@_data
@_candidates
@click.option("--model", metavar="MODEL", help="Where the best model is to be saved.")
@click.option("--plot", "picture", metavar="FILE", help="Draw the criterion: a .png, .pdf or .svg file.")
@_climb
@_priors
@_weights
@_keeping
@_compute
@_overwrite
@_json
@_quiet
def _select(data: str, array: str | None, weights: str | None, as_json: bool, **options: Any) -> None:
    """Fit mixtures with several numbers of components to DATA, and tell which describes it best.

    All of them share every reading of the data.
    """
    compute, keeping = _taken_compute(options), _taken_keeping(options)
    asked = jobs.Candidates(*(options.pop(name) for name in _ASKED))
    others = {name: options.pop(name) for name in ("bayesian", "model", "picture", "overwrite", "quiet")}
    given = {name: value for name, value in options.items() if value is not None}
    _check_kind(given, bayesian=others["bayesian"])
    rows = jobs.Rows(data, array, weights)
    _show(jobs.select(rows, asked, given, keeping=keeping, compute=compute, **others), as_json)


@_command("predict", "daskgmm predict data.zarr --model model.zarr --output classes.zarr --probabilities")
@_data
@_model
@_output
@click.option("--probabilities", is_flag=True, help="Write the probability of every component, too.")
@click.option("--log-density", is_flag=True, help="Write the log-density of every row, too.")
@_compute
@_overwrite
@_json
@_quiet
def _predict(data: str, array: str | None, model: str, output: str, as_json: bool, **options: Any) -> None:
    """Write the most probable component of every row of DATA."""
    compute = _taken_compute(options)
    _show(jobs.predict(jobs.Rows(data, array), model, output, compute=compute, **options), as_json)


@_command("score", "daskgmm score data.zarr --model model.zarr --json")
@_data
@_model
@_weights
@_compute
@_json
@_quiet
def _score(data: str, array: str | None, model: str, weights: str | None, as_json: bool, **options: Any) -> None:
    """Mean log-density of the rows of DATA, and information criteria."""
    compute = _taken_compute(options)
    _show(jobs.score(jobs.Rows(data, array, weights), model, compute=compute, **options), as_json)


@_command("sample", "daskgmm sample model.zarr -n 1000 --output drawn.zarr")
@click.argument("model")
@click.option("-n", "--n-samples", type=_positive, required=True, help="Rows to draw.")
@_output
@_seed
@_overwrite
@_json
def _sample(model: str, n_samples: int, output: str, as_json: bool, **options: Any) -> None:
    """Draw rows from MODEL."""
    _show(jobs.sample(model, n_samples, output, **options), as_json)


@_command("inspect", "daskgmm inspect model.zarr")
@click.argument("path")
@_json
def _inspect(path: str, as_json: bool) -> None:
    """Show what is at PATH: a model, results, samples or data."""
    _show(store_record(path), as_json)


@_command("demo", "daskgmm demo --output daskgmm-demo")
@click.option("--output", default="daskgmm-demo", show_default=True, metavar="DIR", help="Directory to write to.")
@_json
@_quiet
def _demo(output: str, as_json: bool, quiet: bool) -> None:
    """Segment two photographs, pixel by pixel, out of core, on worker processes of this machine."""
    _show(run_demo(output, quiet=quiet), as_json)


def _taken_keeping(options: dict[str, Any]) -> jobs.Keeping:
    keeping = jobs.Keeping(options.pop("checkpoint"), options.pop("resume"))
    if keeping.resume and keeping.checkpoint is None:
        raise click.UsageError("--resume needs --checkpoint PATH.")
    return keeping


def _taken_compute(options: dict[str, Any]) -> jobs.Compute:
    compute = jobs.Compute(*(options.pop(name) for name in ("scheduler", "workers", "threads", "memory_limit")))
    if compute.scheduler and (compute.workers or compute.threads or compute.memory_limit):
        raise click.UsageError("--scheduler excludes --workers, --threads and --memory-limit: they are the cluster's.")
    return compute


# ---- results and errors


def _show(record: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(_finite(record), allow_nan=False, indent=2))
    else:
        print_record(record)


def _finite(value: Any) -> Any:
    """The value with null for NaN and infinities, which JSON does not know."""
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
        None: those of this process.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character is no reason to fail
    try:
        with _plain_messages(arguments):
            _cli.main(args=arguments, prog_name="daskgmm", standalone_mode=False)
    except click.Abort as error:
        click.echo("interrupted", err=True)
        _show_notes(error.__cause__ or error.__context__, arguments)
        return 130
    except click.ClickException as error:
        text = io.StringIO()
        error.show(file=text)
        for line in text.getvalue().splitlines():
            click.echo(_for_people(line, arguments), err=True)
        return error.exit_code
    except (DaskGMMError, ValueError, TypeError, OSError, MemoryError, OverflowError, RecursionError) as error:
        click.echo(f"error: {_for_people(str(error), arguments) or type(error).__name__}", err=True)
        _show_notes(error, arguments)
        return 1
    return 0


def _show_notes(error: BaseException | None, arguments: Sequence[str] | None) -> None:
    for note in getattr(error, "__notes__", ()):
        click.echo(_for_people(note, arguments), err=True)


def _for_people(message: str, arguments: Sequence[str] | None) -> str:
    """A message in one line, without the secrets of any address that was given, and without what steers a terminal."""
    for argument in sys.argv[1:] if arguments is None else arguments:
        if "://" in argument:
            message = Secrets(argument).hide(message)
    return printable(" ".join(message.split()), _LONGEST_MESSAGE)


@contextmanager
def _plain_messages(arguments: Sequence[str] | None) -> Iterator[None]:
    """Warnings that are meant for users, as one line each; what is meant for programmers is left out."""
    logger = logging.getLogger("asyncio")  # tells of tasks that an interrupt or an error cut off
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_: click.echo(
            f"warning: {_for_people(str(message), arguments)}", err=True
        )
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)
