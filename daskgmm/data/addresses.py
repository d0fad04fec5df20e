"""Addresses of stores (paths, URLs, ``path::array``), and their form for messages.

A URL may contain a password, a token or a signature. Messages, logs and files that daskgmm writes show a URL without
user, password, query and fragment, whatever these look like.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote

_HIDDEN = "…"
_PLACES = {"bucket", "container_name", "account_name", "endpoint", "endpoint_url", "region", "region_name"}
"""Options that are no secrets, unless they are URLs with a password."""

_SHORTEST_SECRET = 4  # shorter secrets occur in any text, and would be replaced there


def split_address(address: str) -> tuple[str, str | None]:
    """Split ``path::array`` into (path, array). Chained fsspec URLs, such as ``simplecache::s3://…``, stay whole."""
    head, separator, tail = address.rpartition("::")
    if separator and "://" not in tail and head:
        return head, tail
    return address, None


def local_path(address: str | os.PathLike[str]) -> str | None:
    """Absolute path of an address on this machine; None for a URL of anything but a local file.

    ``~`` is the home directory.
    """
    path = os.fspath(address).removeprefix("file://")
    return None if "://" in path else os.path.abspath(os.path.expanduser(path))


def without_secrets(address: str) -> str:
    """Remove possible passwords, tokens and signatures from an address, which may chain several URLs by ``::``."""
    return "::".join(_shown(link) for link in _links(address))


def _links(address: str) -> list[str]:
    return re.split(r"::(?=[\w+.-]+://)", address)


def _shown(link: str) -> str:
    scheme, separator, rest = link.partition("://")
    rest = rest[len(_user(rest)) :]
    query = re.search(r"[?#]", rest)
    return scheme + separator + (rest if query is None else f"{rest[: query.start()]}{query[0]}{_HIDDEN}")


def _user(rest: str) -> str:
    """User and password at the beginning of the text after ``//``, with the ``@``.

    A password may contain any character, and S3's contain slashes; a user may be an e-mail address. If there is a
    colon, everything up to the last ``@`` is taken as user and password.
    """
    head, at, _ = rest.rpartition("@")
    if ":" not in head:
        head, at, _ = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")
    return head + at


def hide_urls(text: str) -> str:
    """Apply `without_secrets` to every URL in a text, such as another library's error message."""
    return re.sub(r"\S+://\S*", lambda match: without_secrets(match[0]), text)


def printable(text: str, most: int = 200) -> str:
    """Make a name from a store safe to print: control characters replaced, cut after ``most`` characters."""
    shown = "".join(c if c.isprintable() else "?" for c in text[:most])
    return shown + "…" if len(text) > most else shown


class Secrets:
    """Secrets in an address and in the options that the address is opened with.

    Parameters
    ----------
    address : str
    options : mapping or sequence of mappings, optional
        Options of the file system; every text in them counts as secret, except names of places, such as endpoints.
    """

    def __init__(self, address: str, options: Mapping[str, Any] | Sequence[Any] | None = None) -> None:
        secrets = {*_address_secrets(address), *_texts(options)}
        forms = {form for text in secrets for form in (text, quote(text, safe=""), quote(text), unquote(text))}
        self._texts = sorted((text for text in forms if len(text) >= _SHORTEST_SECRET), key=len, reverse=True)

    def hide(self, text: str) -> str:
        """Remove the secrets from a text, such as another library's error message."""
        for secret in self._texts:
            text = text.replace(secret, _HIDDEN)
        return hide_urls(text)

    def cause(self, error: BaseException) -> BaseException | None:
        """Return the error as a cause for ``raise … from``; None if its traceback would print a secret.

        The traceback of an error prints its causes and contexts, too.
        """
        seen: set[int] = set()  # chains of errors that crossed processes may be circles
        link: BaseException | None = error
        while link is not None and id(link) not in seen:
            if self.hide(str(link)) != str(link):
                return None
            seen.add(id(link))
            link = link.__cause__ or link.__context__
        return error


def _address_secrets(address: str) -> Iterator[str]:
    for link in _links(address):
        rest = link.partition("://")[2]
        user = _user(rest)
        if user:
            yield user[:-1]
            yield from user[:-1].split(":", 1)
            yield from re.split(r"[:/@?#\s'\"]", user)  # other libraries split the URL elsewhere, and quote parts
        for text in {rest, rest[len(user) :]}:  # a query may look like a password, and the reverse
            for query in re.split(r"[?#]", text, maxsplit=1)[1:]:
                yield query
                yield query.partition("=")[2]
                yield from (part.partition("=")[2] for part in re.split(r"[&#]", query))


def _texts(options: Any) -> Iterator[str]:
    if isinstance(options, str):
        yield options
    elif isinstance(options, bytes):
        yield options.decode(errors="ignore")
    elif isinstance(options, Mapping):
        for key, value in options.items():
            yield from _address_secrets(value) if key in _PLACES and isinstance(value, str) else _texts(value)
    elif isinstance(options, list | tuple):
        for value in options:
            yield from _texts(value)
