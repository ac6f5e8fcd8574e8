"""The routes of the service: pictures in a form go in, a picture comes out; mistakes are one line in words.

It knows neither torch nor Ray: it looks at headers, refuses what is no picture or too large, and passes
the files on.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from fastapi import APIRouter, Depends, FastAPI, File, Form, HTTPException, UploadFile
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline

from infra.cluster.serving import BusyError, UnavailableError
from jobs.serve.limits import Gate, Limits, refusal, token_check
from jobs.serve.messages import Answer, Facts, Refused, Request
from pipelines.checks.damage import TooLargeError, read_header

_PAGE = Path(__file__).with_name("page")
_TEXT = """Fuse an infrared and a visible picture of one scene, degraded or not.

`curl -F vi=@vi.png -F ir=@ir.png http://127.0.0.1:8000/fuse -o fused.png`
"""
# Nothing of another host is loaded, nor may another's page frame ours. /docs brings scripts of its own.
_POLICY = "default-src 'self'; img-src 'self' blob: data:; style-src 'self'; frame-ancestors 'none'"
_DEGRADATION = (
    "what a camera suffers, for models that take hints, such as `ir:noise:sigma=14` or `vi:clean`; may "
    "be repeated"
)
_WINDOW = (
    "levels of a picture of more than 8 bits that become black and white: `28000:31000`, `1%:99%` or "
    "`full`; measured where it is left out"
)
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {}, "image/jpeg": {}}, "description": "the fused picture"},
    401: {"description": "the token is missing or wrong"},
    413: {"description": "too many bytes or pixels"},
    415: {"description": "a file is not a picture that can be read"},
    422: {"description": "the pair cannot be fused; `detail` says why"},
    429: {"description": "the queue is full; try again after the seconds of Retry-After"},
    503: {"description": "no replica can answer now"},
}


class Model(Protocol):
    """What answers, in other processes or in this one."""

    async def answer(self, item: Request) -> Answer | Refused:
        """Fuse a pair. Raises BusyError or UnavailableError."""

    async def facts(self) -> Facts:
        """What is served. Raises BusyError or UnavailableError."""

    @property
    def num_ongoing(self) -> int:
        """How many pairs are waiting or being fused."""

    async def is_ready(self) -> bool:
        """Whether there is somebody to answer."""


def web_app(model: Model, limits: Limits) -> FastAPI:
    """The application, before a model."""
    app = FastAPIOffline(title="Infrared-visible fusion", description=_TEXT, redoc_url=None)
    app.add_middleware(Gate, most_bytes=limits.most_bytes)
    app.exception_handler(RequestValidationError)(_say_what_is_missing)
    app.exception_handler(BusyError)(_say_busy)
    app.exception_handler(UnavailableError)(_say_unavailable)
    app.mount("/static", StaticFiles(directory=_PAGE), name="static")
    app.include_router(_open_routes(model))
    known = Depends(token_check(limits.token_sha256))
    app.include_router(_model_routes(model, limits), dependencies=[known])
    return app


def _open_routes(model: Model) -> APIRouter:
    """What anybody may ask: the page, and whether there is somebody to answer."""
    routes = APIRouter()

    @routes.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache"}
        return FileResponse(_PAGE / "index.html", headers=headers)

    @routes.get("/healthz")
    async def health() -> dict[str, str]:
        """Whether the application answers."""
        return {"status": "alive"}

    @routes.get("/readyz")
    async def readiness() -> dict[str, str | int]:
        """Whether a replica is up, and how many pairs are under way; 503 where none is, or at the end."""
        if not await model.is_ready():
            raise UnavailableError("no replica is up")
        return {"status": "ready", "under_way": model.num_ongoing}

    return routes


def _model_routes(model: Model, limits: Limits) -> APIRouter:
    """What a token is asked for."""
    routes = APIRouter()

    @routes.get("/model")
    async def served() -> dict[str, str]:
        """What is served: the model as it was asked for and its version, and the kind of its hints."""
        return asdict(await model.facts())

    @routes.post("/fuse", response_class=Response, responses=_RESPONSES)
    async def fuse(
        request: HttpRequest,
        vi: Annotated[UploadFile, File(description="visible picture: PNG, JPEG or TIFF")],
        ir: Annotated[UploadFile, File(description="infrared picture of the same size")],
        degradation: Annotated[list[str] | None, Form(description=_DEGRADATION)] = None,
        vi_window: Annotated[str | None, Form(description="as ir_window")] = None,
        ir_window: Annotated[str | None, Form(description=_WINDOW)] = None,
    ) -> Response:
        """Fuse a pair to a PNG, of 16 bits a channel if a source has them, or to a JPEG if `Accept` asks
        for one. Refusals are `{"detail": "one line"}`.
        """
        item = Request(
            vi=await _picture(vi, "vi", limits),
            ir=await _picture(ir, "ir", limits),
            form=_form(request.headers.get("accept", "")),
            degradation=tuple(text for text in degradation or () if text),
            vi_window=vi_window or None,
            ir_window=ir_window or None,
        )
        answer = await model.answer(item)
        if isinstance(answer, Refused):
            raise HTTPException(422, answer.reason)
        return Response(answer.picture, media_type=f"image/{item.form}", headers=_headers(answer))

    return routes


def _headers(answer: Answer) -> dict[str, str]:
    headers = {"X-Model": answer.model, "X-Seconds": f"{answer.seconds:.3f}"}
    if answer.seen:
        likeliest = {camera: next(iter(shares.items())) for camera, shares in answer.seen.items()}
        headers["X-Sees"] = json.dumps(
            {camera: {name: round(share, 3)} for camera, (name, share) in likeliest.items()}
        )
    return headers


def _form(accept: str) -> Literal["png", "jpeg"]:
    return "jpeg" if "image/jpeg" in accept and "image/png" not in accept else "png"


async def _picture(file: UploadFile, name: str, limits: Limits) -> bytes:
    """A file's bytes. Raises HTTPException for what is too large, or no picture, by its header."""
    data = await file.read()
    try:
        read_header(data, name, most_pixels=limits.most_pixels)
    except TooLargeError as error:
        raise HTTPException(413, str(error)) from error
    except ValueError as error:
        raise HTTPException(415, str(error)) from error
    return data


async def _say_what_is_missing(_: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = first["loc"][-1]
    return refusal(422, f"{name}: {first['msg'].lower()}; send two files, vi and ir, in a form")


async def _say_busy(_: HttpRequest, __: Exception) -> Response:
    return refusal(429, "too many pairs are waiting; try again in some seconds", retry=True)


async def _say_unavailable(_: HttpRequest, error: Exception) -> Response:
    return refusal(503, f"{error}; try again in some seconds", retry=True)
