"""Why a connection by TLS is not made: whose certificate is not accepted, and by whom.

redis-py raises one class for all that, and its reason is often that the connection broke: a server that refuses our
certificate says so and hangs up while we are writing already, and what it has said is lost. So it is listened to once
more, in silence.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Any

# A server that has nothing against us says nothing, for longer than a refusal takes.
LISTEN_S = 1.0
# How a connection ends under our hands.
BROKE_OFF = (ssl.SSLEOFError, BrokenPipeError, ConnectionResetError)
# Words in what servers tell of a certificate that they do not accept, or want and have not got.
CERTIFICATE_WORDS = ("CERTIFICATE", "UNKNOWN_CA", "HANDSHAKE_FAILURE", "ACCESS_DENIED")


def certificate_problem(connection: Any, error: BaseException) -> str:
    """Say what is wrong with a certificate, ours or the server's; nothing when that is not what is in the way.

    Args:
        connection: redis-py's, not connected.
        error: of the try to connect it.
    """
    found = why(error)
    broke_off = any(isinstance(one, BROKE_OFF) for one in causes(error))
    if found is None and broke_off and hasattr(connection, "cert_reqs"):
        found = refusal(connection)
    if found is None:
        return ""
    reason = (found.reason or "").replace("_", " ").lower()
    if isinstance(found, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {found.verify_message}"
    if "ALERT" in (found.reason or "") and any(word in (found.reason or "") for word in CERTIFICATE_WORDS):
        return f"it does not accept our certificate, or wants one ({reason})"
    if found.library in ("X509", "PEM") or "PEM lib" in str(found):
        return f"our certificate and key are no pair of PEM files ({reason or 'unreadable'})"
    return ""


def why(error: BaseException) -> ssl.SSLError | None:
    """Return what TLS has to say about an error; None when that is no more than that the connection broke."""
    of_tls = (one for one in causes(error) if isinstance(one, ssl.SSLError))
    return next((one for one in of_tls if not isinstance(one, BROKE_OFF)), None)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, and what led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def refusal(connection: Any) -> ssl.SSLError | None:
    """Connect again, and return what the server has against us; None for nothing, or when it cannot be reached."""
    try:
        with connection._connect() as listening:  # redis-py has no public name for it
            listening.settimeout(LISTEN_S)
            listening.recv(1)
    except OSError as error:
        return why(error)
    return None
