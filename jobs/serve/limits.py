"""What a request may be: its bytes, its token; and how one is refused and counted."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.prometheus import count_request

_RETRY_AFTER_S = 5


@dataclass(frozen=True)
class Limits:
    """Of a picture's pixels, and of a request's bytes; and what its token hashes to, where it needs one.

    The token itself is in no process of the cluster.
    """

    most_pixels: int = 2**24
    most_bytes: int = 2**27
    token_sha256: str | None = None


def sha256_of(token: str) -> str:
    """What `Limits` keeps of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def token_check(sha256: str | None) -> Callable[[Request], Awaitable[None]]:
    """Make a dependency of a route that refuses with 401 whoever does not know the token."""

    async def check(request: Request) -> None:
        if sha256 is None:
            return
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        is_right = hmac.compare_digest(sha256_of(token.strip()), sha256)
        if scheme.lower() != "bearer" or not is_right:
            raise HTTPException(
                401,
                "the token is missing or wrong; send the header Authorization: Bearer TOKEN",
                {"WWW-Authenticate": "Bearer"},
            )

    return check


def refusal(status: int, detail: str, *, retry: bool = False) -> Response:
    """A refusal in one line; with `retry` the client is told when to come again."""
    headers = {"Retry-After": str(_RETRY_AFTER_S)} if retry else None
    return JSONResponse({"detail": detail}, status, headers)


class Gate:
    """Around the application: refuses requests of more than `most_bytes`, counts those to fuse.

    One that says its length is refused before a byte of it is read.
    """

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self._app, self._most_bytes = app, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = self._counting(send) if scope["path"] == "/fuse" else send
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._most_bytes:
            await refusal(413, self._reason)(scope, receive, sent)
        else:
            await self._app(scope, self._limited(receive), sent)

    @property
    def _reason(self) -> str:
        return f"the request is larger than {self._most_bytes} bytes; send smaller pictures"

    def _limited(self, receive: Receive) -> Receive:
        num_bytes = 0

        async def limited() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._most_bytes:
                raise HTTPException(413, self._reason)
            return message

        return limited

    def _counting(self, send: Send) -> Send:
        started = time.perf_counter()

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                count_request(message["status"], time.perf_counter() - started)
            await send(message)

        return counting
