"""Whether what a setting names answers at all: asked once, in seconds.

The clients of Ray and of databases retry for minutes where nothing listens, and print a line a try.
"""

from __future__ import annotations

import socket

_TIMEOUT_S = 5.0
# What opens an HTTP/2 connection (RFC 9113, 3.4): the preface and empty SETTINGS. gRPC speaks it.
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_FRAME_TYPE, _SETTINGS_FRAME = 3, b"\x04"


def check_port(host: str, port: int, what: str) -> None:
    """Raise ConnectionError when nothing listens at `host` and `port`; `what` begins its message."""
    _connect(host, port, what).close()


def check_grpc(host: str, port: int, what: str) -> None:
    """Raise ConnectionError when no gRPC server, such as a Ray head, answers at `host` and `port`."""
    with _connect(host, port, what) as connection:
        try:
            connection.sendall(_HELLO)
            answer = connection.recv(_FRAME_TYPE + 1)
        except OSError as error:
            raise ConnectionError(f"{what} answers nothing at {host}:{port} ({error})") from error
    # A server that asks for TLS sends an alert, or hangs up: Ray's client will find out more.
    is_tls = answer[:1] in (b"", b"\x15")
    if not is_tls and answer[_FRAME_TYPE:] != _SETTINGS_FRAME:
        raise ConnectionError(f"{what} is no Ray head: another server listens at {host}:{port}")


def _connect(host: str, port: int, what: str) -> socket.socket:
    try:
        return socket.create_connection((host, port), timeout=_TIMEOUT_S)
    except (OSError, OverflowError) as error:
        raise ConnectionError(f"{what} does not answer at {host}:{port} ({error})") from error
