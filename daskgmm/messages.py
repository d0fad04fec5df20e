"""Errors and warnings in the terminal: one style, one line each, with the names of the terminal's options.

All other modules write messages with Python's names: ``X``, ``sample_weight``, ``overwrite=True``. The names of a
command's options follow from the names of the parameters, so one translation here serves every message.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from .data.addresses import Secrets, printable

_LONGEST_MESSAGE = 4000

# A name that stands alone: neither a value, nor a call, nor part of a path, of a longer name or of an expression.
_BEFORE, _AFTER = r"(?<![\w./:\\'\"-])", r"(?![\w(\[]|[./:\\-]\w)"
_CALL = re.compile(r"([\w.]+\((?:[^()]|\([^()]*\))+\)(?:\.\w+)*)")  # Python code, which must not contain options
_STORAGE_OPTIONS = "--storage-options"
_CONFIGURATION = re.compile(r"dask\.config\.set\(\{'daskgmm\.([\w-]+)': '?([\w.-]+)'?\}\)")


@dataclass(frozen=True)
class Messages:
    """Messages about one command line.

    Parameters
    ----------
    arguments : sequence of str
    options : mapping, optional
        The command's options by the parameters that they set; see `option_names`.
    """

    arguments: Sequence[str]
    options: Mapping[str, str] = field(default_factory=dict)

    def show(self, kind: str, text: str) -> None:
        """Print a message on standard error; ``kind`` is ``"error"``, ``"warning"`` or ``"help"``, or empty."""
        click.echo(f"{kind}: {self.clean(text)}" if kind else self.clean(text), err=True)

    def show_error(self, error: BaseException) -> None:
        """Print an error and its notes."""
        self.show("error", str(error) or type(error).__name__)
        self.show_notes(error)

    def show_notes(self, error: BaseException | None) -> None:
        """Print the notes that were added to an error."""
        for note in getattr(error, "__notes__", ()):
            self.show("", note)

    def show_usage(self, error: click.ClickException) -> None:
        """Print an error of the command line, and the command that prints help."""
        if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):  # new in click 8.2
            click.echo(error.format_message(), err=True)
            return
        self.show("error", error.format_message())
        context = getattr(error, "ctx", None)
        if context is not None:
            self.show("help", f"{context.command_path} --help")

    def clean(self, text: str) -> str:
        """Make a text one line, without secrets of addresses in the command line and without control characters."""
        for argument in self.arguments:
            if "://" in argument:
                text = Secrets(argument).hide(text)
        for options in self._storage_options():
            text = Secrets("", [options]).hide(text)
        return printable(self._as_options(" ".join(text.split())), _LONGEST_MESSAGE)

    def _storage_options(self) -> Iterator[Any]:
        """Values of ``--storage-options``, read as JSON where they are JSON."""
        following = zip(self.arguments, self.arguments[1:], strict=False)
        values = [value for option, value in following if option == _STORAGE_OPTIONS]
        joined = f"{_STORAGE_OPTIONS}="
        values += [text.removeprefix(joined) for text in self.arguments if text.startswith(joined)]
        for value in values:
            yield _json_or_text(value)
            yield _json_or_text(value.partition("=")[2])

    def _as_options(self, text: str) -> str:
        text = _CONFIGURATION.sub(lambda match: self._configured(*match.groups()), text)
        prose_and_calls = _CALL.split(text)
        prose_and_calls[::2] = map(self._prose_as_options, prose_and_calls[::2])
        return "".join(prose_and_calls)

    def _prose_as_options(self, text: str) -> str:
        for name, option in self.options.items():
            if name not in self.arguments:
                text = re.sub(f"{_BEFORE}{name}=True{_AFTER}", option, text)
                text = re.sub(f"{_BEFORE}{name}=", f"{option} ", text)
                if _is_no_word(name):
                    text = re.sub(f"{_BEFORE}{name}{_AFTER}", option, text)
        return text

    def _configured(self, name: str, value: str) -> str:
        option = self.options.get(name.replace("-", "_"))
        return f"{option} {value}" if option else f"DASK_DASKGMM__{name.replace('-', '_').upper()}={value}"


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def option_names(command: click.Command | None) -> dict[str, str]:
    """Return a command's options by the parameters that they set: ``{"n_init": "--n-init", …}``."""
    return dict(_option_names(command)) if command is not None else {}


def _option_names(command: click.Command) -> Iterator[tuple[str, str]]:
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            option = next(name for name in parameter.opts if name.startswith("--"))
            yield option.removeprefix("--").replace("-", "_"), option
        elif parameter.name == "data":
            yield "X", "DATA"


def _is_no_word(name: str) -> bool:
    """Test whether a name can only be a parameter: "model" and "output" are English words, too."""
    return "_" in name or name in ("X", "tol")
