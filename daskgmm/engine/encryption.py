"""Advice for a failed connection to a scheduler, with TLS or without."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator

import dask

_SETTINGS = "distributed.comm.tls"

_ADVICE = (
    "Check the address and that `dask scheduler` runs there and can be reached from here. With TLS its address begins "
    "with tls://, and both sides need certificates of one authority, in PEM format and valid today "
    f"({_SETTINGS}, docs/reliability.md); its log tells what it refuses."
)


def advice(address: str, error: BaseException) -> str:
    """Sentences for an error message, without any part of a key.

    Parameters
    ----------
    address : str
        Address of the scheduler.
    error : BaseException
        Error of the connection.
    """
    return " ".join([*_causes(error), *(_missing_files() if address.startswith(("tls:", "wss:")) else ()), _ADVICE])


def _causes(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            yield f"Its certificate: {error.verify_message}."
        error = error.__cause__ or error.__context__


def _missing_files() -> Iterator[str]:
    for name in ("ca-file", "client.cert", "client.key"):
        value = dask.config.get(f"{_SETTINGS}.{name}", None)
        if value is None and name == "client.key":
            continue  # the file of the certificate may hold the key
        if isinstance(value, str) and "\n" in value:
            continue  # the certificate itself
        if not isinstance(value, str) or not os.path.isfile(value):
            yield f"{_SETTINGS}.{name} is {value!r:.200}, which is no file."
        elif not os.access(value, os.R_OK):
            yield f"{_SETTINGS}.{name} is {value!r:.200}, which this process may not read."
