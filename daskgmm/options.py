"""Options of the terminal's commands, each defined once.

Help and completions have to be quick, so this module imports NumPy and Dask only when an option needs them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .criteria import CRITERIA, selection_criteria
from .names import (
    ACCELERATIONS,
    AUTO,
    COVARIANCE_TYPES,
    FULL,
    INIT_METHODS,
    MISSING,
    MISSING_CHUNKS,
    NONE,
    WEIGHT_PRIORS,
    Defaults,
)

if TYPE_CHECKING:
    from click import ParamType

    Choice = click.Choice[str]
else:
    Choice = click.Choice

    class ParamType(click.ParamType):
        """Type of parameters of click, which is generic itself from click 8.4 on."""

        def __class_getitem__(cls, kind):
            return cls


F = TypeVar("F", bound=Callable[..., Any])


class Size(ParamType[int | str]):
    """Size as it was written, with a unit, or a number of bytes."""

    name = "size"

    def convert(self, value: Any, param: Any, ctx: Any) -> int | str:
        if ctx is not None and ctx.resilient_parsing:
            return 0  # a completion does not need the value
        from dask.utils import parse_bytes

        try:
            size = int(parse_bytes(value))
        except (ValueError, OverflowError):
            size = 0
        if size < 1:
            self.fail(f"{value!r} is not a size such as 500MB, 2GB or 1GiB", param, ctx)
        return value if value.strip()[-1].isalpha() else size


class CacheSize(ParamType[int | str]):
    """Size, ``auto`` or ``none``."""

    name = "size|auto|none"

    def convert(self, value: Any, param: Any, ctx: Any) -> int | str:
        if str(value) in ("none", "0"):
            return 0
        return AUTO if value == AUTO else Size().convert(value, param, ctx)


class NumberOrWord(ParamType[int | str]):
    """A whole number, or one of some words."""

    def __init__(self, least: int, *words: str) -> None:
        self._number, self._words = click.IntRange(min=least), words
        self.name = "|".join(("integer", *words))

    def convert(self, value: Any, param: Any, ctx: Any) -> int | str:
        return value if value in self._words else self._number.convert(value, param, ctx)


class Numbers(ParamType[list[int]]):
    """Numbers as ``1:20``, ``2,4,8`` or both."""

    name = "numbers"

    def convert(self, value: Any, param: Any, ctx: Any) -> list[int]:
        try:
            return [number for part in value.split(",") for number in _range(part)]
        except ValueError:
            self.fail(f"{value!r} is not a list such as 1:20, 2,4,8 or 1:4,8,16", param, ctx)


def _range(part: str) -> range:
    first, colon, last = part.partition(":")
    return range(int(first), int(last if colon else first) + 1)


class OneNumber(ParamType[int]):
    """One number of components; several numbers belong to `daskgmm select`."""

    name = "integer"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        if any(mark in str(value) for mark in ":,"):
            self.fail(
                f"fit takes one number, not {value!r}: `daskgmm select DATA -k {value}` compares several", param, ctx
            )
        return click.IntRange(min=1).convert(value, param, ctx)


class CovarianceType(Choice):
    """Name of a covariance structure, from daskgmm or another package."""

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        if value not in COVARIANCE_TYPES and not (ctx and ctx.resilient_parsing):
            from .core.covariance import STRUCTURES

            if value in STRUCTURES:
                return str(value)
        return str(super().convert(value, param, ctx))


class StorageOption(ParamType[dict[str, Any]]):
    """Options of a file system: a JSON object, or KEY=VALUE with a JSON value or a text."""

    name = "options"

    def convert(self, value: Any, param: Any, ctx: Any) -> dict[str, Any]:
        key, equals, text = value.partition("=")
        if equals and key.isidentifier():
            return {key: _json_or_text(text)}
        options = _json_or_text(value)
        if not isinstance(options, dict):  # the message omits the value, which may be secret
            self.fail("expected a JSON object such as '{\"anon\": true}', or KEY=VALUE such as anon=true", param, ctx)
        return options


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _merged(ctx: click.Context, _: Any, options: tuple[dict[str, Any], ...]) -> dict[str, Any] | None:
    return {key: value for part in options for key, value in part.items()} or None


class Names(ParamType[list[str]]):
    """Names with commas between them."""

    name = "names"

    def convert(self, value: Any, param: Any, ctx: Any) -> list[str]:
        return [name.strip() for name in value.split(",")]


def _together(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def _parameter(name: str, kind: Any, text: str) -> Callable[[F], F]:
    """Make the option of an estimator's parameter; its value is None if the option is not given."""
    default = getattr(Defaults, name, None)
    shown = "" if default is None else f"  [default: {default}]"
    return click.option(f"--{name.replace('_', '-')}", type=kind, help=text + shown)


def _set_missing_chunks(ctx: click.Context, _: Any, value: str | None) -> None:
    if value is not None and not ctx.resilient_parsing:
        import dask

        ctx.with_resource(dask.config.set({"daskgmm.missing-chunks": value}))


_positive = click.IntRange(min=1)
_above_zero = click.FloatRange(min=0, min_open=True)
_not_negative = click.FloatRange(min=0)

storage_options = click.option(
    "--storage-options",
    type=StorageOption(),
    multiple=True,
    callback=_merged,
    metavar="JSON|KEY=VALUE",
    help="Options of the file systems of URLs, such as anon=true for s3://; may be repeated.",
)
data = _together(
    click.argument("data"),
    click.option("--array", metavar="NAME", help="The array inside the group or file DATA; DATA::NAME means the same."),
    click.option(
        "--dim", type=Names(), help="Names of the sample dimensions of DATA, such as z,y,x; the others are features."
    ),
    click.option(
        "--feature-axis",
        type=int,
        metavar="AXIS",
        help="The axis of DATA with the features, such as 0 or -1; the others are a grid of samples.",
    ),
    click.option(
        "--missing-chunks",
        type=click.Choice(MISSING_CHUNKS),
        callback=_set_missing_chunks,
        expose_value=False,
        help=f"Treat a chunk that is not in its store as an error or as fill values.  [default: {MISSING_CHUNKS[0]}]",
    ),
    storage_options,
)
model = click.option("--model", required=True, metavar="MODEL", help="A model that `daskgmm fit` wrote.")
output = click.option("-o", "--output", required=True, metavar="OUT", help="The Zarr group to write.")
overwrite = click.option("--overwrite", is_flag=True, help="Replace an output of the same kind that daskgmm wrote.")
weights = click.option(
    "--sample-weight",
    "weights",
    metavar="FILE|COLUMN",
    help="One weight for each row: a .npy file, a Zarr array, or a column of the table DATA.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
quiet = click.option("--quiet", is_flag=True, help="No progress display.")
random_state = click.option(
    "--random-state",
    "--seed",
    "random_state",
    type=click.IntRange(0, 2**32 - 1),
    metavar="SEED",
    help="Makes draws repeatable.",
)
compute = _together(
    click.option("--scheduler", metavar="ADDRESS", help="A running Dask scheduler, such as tcp://host:8786."),
    click.option("--workers", type=_positive, help="Start this many worker processes on this machine."),
    click.option("--threads", type=_positive, help="Threads of each worker, or of this process."),
    click.option("--memory-limit", type=Size(), metavar="SIZE", help="Memory of each worker process, such as 2GB."),
)
checkpoint = _together(
    click.option("--checkpoint", metavar="PATH", help="Save the state of the fit there after every pass."),
    click.option("--resume", is_flag=True, help="Continue from --checkpoint, or begin if there is none yet."),
)
missing = _parameter(
    "missing",
    click.Choice(MISSING),
    "Incomplete rows (NaN, or a stored value that means missing) are an error, or are left out and get the label -1.",
)
em = _together(
    _parameter("tol", _not_negative, "Stop when the mean log-likelihood changes by less, in nats per row."),
    _parameter("reg_covar", _not_negative, "Added to every variance, in squared units of the data."),
    _parameter("max_iter", click.IntRange(min=0), "Largest number of iterations."),
    _parameter("n_init", NumberOrWord(1, AUTO), "Number of starts; the best one is kept."),
    _parameter("init_params", click.Choice(INIT_METHODS), "Method of making starts."),
    _parameter(
        "init_size",
        NumberOrWord(2, AUTO, NONE),
        "Run starts on a sample of this many rows before all data; auto: search for a start if there are many rows.",
    ),
    _parameter(
        "acceleration",
        click.Choice((*ACCELERATIONS, AUTO, NONE)),
        "Take larger steps than EM's where they gain more; auto: if there are many rows.",
    ),
    _parameter("cache", CacheSize(), "Memory of each process to keep rows in between passes: a size, auto or none."),
    missing,
    _parameter("verbose", click.IntRange(min=0), "1 prints iterations, 2 details, on standard error."),
    _parameter("verbose_interval", _positive, "Iterations between two printed lines."),
    random_state,
)
estimator = _together(
    click.option("-k", "--n-components", type=OneNumber(), help="Number of components; required without --warm-start."),
    _parameter("covariance_type", CovarianceType(COVARIANCE_TYPES), "Structure of the covariance matrices."),
    em,
    _parameter("weights_init", str, "Initial weights: a .npy file or a Zarr array."),
    _parameter("means_init", str, "Initial means, likewise."),
    _parameter("precisions_init", str, "Initial inverses of the covariances, likewise."),
    click.option("--warm-start", metavar="MODEL", help="Continue from this model instead of making starts."),
)
candidates = _together(
    click.option(
        "-k",
        "--n-components",
        type=Numbers(),
        default="1:20",
        show_default=True,
        help="Numbers of components: 1:20 (both included), 2,4,8, or both.",
    ),
    click.option(
        "--covariance-types",
        type=Names(),
        default=FULL,
        show_default=True,
        help=f"Structures of the covariance matrices: {', '.join(COVARIANCE_TYPES)}; several with commas between them.",
    ),
    click.option(
        "--criterion",
        type=click.Choice(selection_criteria()),
        default=selection_criteria()[0],
        show_default=True,
        help=f"Choose the lowest {', '.join(CRITERIA)}, or the highest likelihood of held-out rows.",
    ),
    click.option("--held-out", type=float, metavar="SHARE", help="Share of the rows that no fit sees."),
    click.option(
        "--patience",
        type=int,
        metavar="ITERATIONS",
        help="Give up candidates that cannot win for this many iterations.",
    ),
)
priors = _together(
    click.option("--bayesian", is_flag=True, help="With priors, by variational inference: -k is the largest number."),
    _parameter("weight_concentration_prior_type", click.Choice(WEIGHT_PRIORS), "Bayesian: prior of the weights."),
    _parameter("weight_concentration_prior", _above_zero, "Its concentration: small values use few components.  [1/k]"),
    _parameter("mean_precision_prior", _above_zero, "Bayesian: rows that the prior mean is worth.  [1]"),
    _parameter("degrees_of_freedom_prior", _above_zero, "Rows that the prior covariance is worth.  [features]"),
)
fitting = _together(priors, weights, checkpoint, compute, overwrite, as_json, quiet)
