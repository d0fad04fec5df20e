"""What to try where this process and a scheduler do not get to speak to each other, with TLS or without."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import dask
import distributed

_SETTINGS = "distributed.comm.tls"
_NAMES = ("ca-file", "client.cert", "client.key")

_REACH = "Check the address and that `dask scheduler` runs there and can be reached from here."
_SAYS_TLS = (
    f"If it uses TLS, its address begins with tls://, and this process needs certificates ({_SETTINGS}, "
    "docs/reliability.md)."
)
_ONLY_TLS = (
    "distributed.comm.require-encryption is set here, so it has to be started with TLS, and its address begins with "
    "tls://."
)
_ONE_AUTHORITY = (
    f"It has to run with TLS, and both sides need certificates of one authority ({_SETTINGS}.ca-file) that are valid "
    "today. Its log tells what it refuses."
)


def advice(address: str, error: BaseException) -> str:
    """Sentences for the message of an error; they hold no part of a key.

    Parameters
    ----------
    address : str
        Of the scheduler.
    error : BaseException
        What connecting to it ended in.
    """
    if address.partition("://")[0] not in ("tls", "wss"):
        if isinstance(error, RuntimeError):
            return _ONLY_TLS
        return f"{_REACH} {_SAYS_TLS}" if isinstance(error, distributed.comm.CommClosedError) else _REACH
    trouble = _trouble()
    if trouble is not None:
        return f"Certificates are configured in {_SETTINGS} (docs/reliability.md): {trouble}."
    if isinstance(error, TimeoutError):
        return _REACH
    refused = [cause.verify_message for cause in _chain(error) if isinstance(cause, ssl.SSLCertVerificationError)]
    return "".join(f"Its certificate: {reason}. " for reason in refused) + _ONE_AUTHORITY


def _trouble() -> str | None:
    """What is wrong with the settings of this process."""
    for name in _NAMES:
        value = dask.config.get(f"{_SETTINGS}.{name}", None)
        if value is None and name == "client.key":
            continue  # it may be in the file of the certificate
        if not isinstance(value, str):
            return f"{name} is {value!r:.80}, not the name of a file"
        if "\n" in value:
            continue  # the text itself
        try:
            with open(value, "rb"):
                pass
        except (OSError, ValueError) as error:
            return f"{name} is {value!r:.200}, which cannot be read ({getattr(error, 'strerror', error)})"
    try:
        distributed.Security().get_connection_args("client")
    except (ValueError, TypeError, OSError) as error:
        return f"{', '.join(_NAMES)} are no certificates and their key in PEM format ({error!s:.200})"
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
