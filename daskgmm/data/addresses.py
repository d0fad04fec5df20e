"""Names of stores: paths, URLs, ``path::array``; and what of a name may be shown to people.

A URL may carry a password, a token or a signature. Whoever reads a message, a log or a file that daskgmm wrote sees
what is left when user, password, query and fragment are taken off, whatever they look like.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote

_HIDDEN = "…"
_SHORTEST_SECRET = 4  # shorter ones would be found, and replaced, in any text


def split_address(address: str) -> tuple[str, str | None]:
    """``path::array`` -> (path, array). Chained fsspec URLs, such as ``simplecache::s3://…``, stay whole."""
    head, separator, tail = address.rpartition("::")
    if separator and "://" not in tail and head:
        return head, tail
    return address, None


def local_path(address: str | os.PathLike[str]) -> str | None:
    """Absolute path on this machine that an address means; None for the URL of anything but a local file.

    ``~`` is the home directory.
    """
    path = os.fspath(address).removeprefix("file://")
    return None if "://" in path else os.path.abspath(os.path.expanduser(path))


def without_secrets(address: str) -> str:
    """An address without what may be a password, a token or a signature; ``::`` may chain several."""
    return "::".join(_shown(link) for link in _links(address))


def _links(address: str) -> list[str]:
    return re.split(r"::(?=[\w+.-]+://)", address)


def _shown(link: str) -> str:
    scheme, separator, rest = link.partition("://")
    rest = rest[len(_user(rest)) :]
    query = re.search(r"[?#]", rest)
    return scheme + separator + (rest if query is None else f"{rest[: query.start()]}{query[0]}{_HIDDEN}")


def _user(rest: str) -> str:
    """User and password of what follows ``//``, the ``@`` included.

    A password may hold any character, and S3's do hold slashes; a user may be an address of mail. Where there is a
    colon, everything up to the last ``@`` counts.
    """
    head, at, _ = rest.rpartition("@")
    if ":" not in head:
        head, at, _ = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")
    return head + at


def hide_urls(text: str) -> str:
    """A text, such as somebody else's error, with every URL in it as `without_secrets` shows it."""
    return re.sub(r"\S+://\S*", lambda match: without_secrets(match[0]), text)


def printable(text: str, most: int = 200) -> str:
    """A name out of a store, for people: what could steer a terminal is left out, and so is the rest of a long one."""
    shown = "".join(c if c.isprintable() else "?" for c in text[:most])
    return shown + "…" if len(text) > most else shown


class Secrets:
    """What must not be told of an address and of the options that it is opened with.

    Parameters
    ----------
    address : str
    options : mapping, optional
        Of a file system; every text in them counts as secret.
    """

    def __init__(self, address: str, options: Mapping[str, Any] | None = None) -> None:
        found = {*_of_address(address), *_texts(options)}
        forms = {form for text in found for form in (text, quote(text, safe=""), quote(text), unquote(text))}
        self._texts = sorted((text for text in forms if len(text) >= _SHORTEST_SECRET), key=len, reverse=True)

    def hide(self, text: str) -> str:
        """A text of somebody else's, such as an error's, without them."""
        for secret in self._texts:
            text = text.replace(secret, _HIDDEN)
        return hide_urls(text)

    def cause(self, error: BaseException) -> BaseException | None:
        """The error, as the cause of another one; None if it or what led to it tells a secret, as its print would."""
        told: BaseException | None = error
        while told is not None:
            if self.hide(str(told)) != str(told):
                return None
            told = told.__cause__ or told.__context__
        return error


def _of_address(address: str) -> Iterator[str]:
    for link in _links(address):
        rest = link.partition("://")[2]
        user = _user(rest)
        if user:
            yield user[:-1]
            yield from user[:-1].split(":", 1)
            yield from re.split(r"[:/@?#\s'\"]", user)  # what somebody who reads it otherwise tells of it
        for read in {rest, rest[len(user) :]}:  # what looks like a password may be a query, and the reverse
            for query in re.split(r"[?#]", read, maxsplit=1)[1:]:
                yield query
                yield query.partition("=")[2]
                yield from (part.partition("=")[2] for part in re.split(r"[&#]", query))


def _texts(options: Any) -> Iterator[str]:
    if isinstance(options, str):
        yield options
    elif isinstance(options, Mapping):
        for value in options.values():
            yield from _texts(value)
    elif isinstance(options, list | tuple):
        for value in options:
            yield from _texts(value)
