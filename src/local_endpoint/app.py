"""The endpoint as an ASGI application."""

import asyncio
import json
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse

from local_endpoint.bodies import parse_json, read_body
from local_endpoint.client_api import client_router
from local_endpoint.config import MB
from local_endpoint.core import Core
from local_endpoint.errors import ApiError, handle_errors
from local_endpoint.explainer import NoExplainer
from local_endpoint.limits import Gate
from local_endpoint.openapi import describe
from local_endpoint.overview import overview
from local_endpoint.store import StoreUnavailable
from local_endpoint.webhooks import Webhooks
from local_endpoint.worker_api import worker_router

__all__ = ["create_app"]

_log = logging.getLogger(__name__)
_PAGES = Path(__file__).parent / "playground"
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data: blob: https: http:; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
_SAY_AGAIN_S = 60.0
_EXPLAINED_BYTES = 12 * MB
_FILES = {file.name for file in _PAGES.iterdir() if file.suffix in (".js", ".css")}


def create_app(core: Core) -> FastAPI:
    """Everything under one roof: both APIs, their document, the playground, and what runs beside them."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        beside = [asyncio.create_task(_for_ever(run)) for run in (core.keep_time, Webhooks(core).run)]
        yield
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)

    app = FastAPI(
        title="Local endpoint",
        description="RunPod's serverless job API on this machine.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    handle_errors(app)
    describe(app, core.config)
    gate = Gate(core.config.keys, limits=core.config.rate_limits)
    client = client_router(core, gate)
    app.include_router(client, prefix="/v2/{endpoint_id}")
    # The seeds write one of their URLs with v1.
    app.include_router(client, prefix="/v1/{endpoint_id}", include_in_schema=False)
    app.include_router(worker_router(core), prefix="/v2/{endpoint_id}")
    _add_pages(app, core, gate)
    return app


async def _for_ever(run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Begin anew whatever happens, such as a disk that is full or gone for a while."""
    loop, said_s = asyncio.get_running_loop(), -_SAY_AGAIN_S
    while True:
        try:
            await run()
        except (StoreUnavailable, sqlite3.Error) as error:
            if loop.time() - said_s >= _SAY_AGAIN_S:
                _log.error("%s; it is tried again every second", error)
                said_s = loop.time()
        except Exception:
            _log.exception("will be tried again")
        await asyncio.sleep(1)


def _add_pages(app: FastAPI, core: Core, gate: Gate) -> None:
    @app.get("/", include_in_schema=False)
    async def playground() -> Response:
        return FileResponse(_PAGES / "index.html", headers=_PAGE_HEADERS)

    @app.get("/console", include_in_schema=False)
    async def console() -> Response:
        return FileResponse(_PAGES / "console.html", headers=_PAGE_HEADERS)

    @app.get("/playground/console.json", include_in_schema=False)
    async def console_data(request: Request) -> Response:
        # No operation of the platform's: it counts as looking at a job.
        with gate.enter(request.headers.get("authorization"), "status"):
            return Response(
                json.dumps(await overview(core)), headers=_PAGE_HEADERS, media_type="application/json"
            )

    @app.post("/playground/explain", include_in_schema=False)
    async def explain(request: Request) -> Response:
        with gate.enter(request.headers.get("authorization"), "status"):
            body = await read_body(
                request, limit_bytes=_EXPLAINED_BYTES, timeout_s=core.config.request_timeout_s
            )
            given = parse_json(body)
            try:
                answer = await core.explainer.ask(given if isinstance(given, dict) else {})
            except NoExplainer as error:
                raise ApiError(501, str(error)) from error
            return Response(json.dumps(answer), media_type="application/json")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return FileResponse(_PAGES / "docs.html", headers=_PAGE_HEADERS)

    @app.get("/playground/config.json", include_in_schema=False)
    async def config() -> Response:
        page = {
            "endpoint_id": core.config.endpoint_id,
            "input_schema": core.input_schema,
            "explains": bool(core.config.explain_command),
        }
        return Response(json.dumps(page), headers=_PAGE_HEADERS, media_type="application/json")

    @app.get("/playground/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        if name not in _FILES:
            return Response(status_code=404)
        return FileResponse(_PAGES / name, headers=_PAGE_HEADERS)
