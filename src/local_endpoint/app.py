"""The endpoint as an ASGI application."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Response
from fastapi.responses import FileResponse

from local_endpoint.client_api import client_router
from local_endpoint.core import Core
from local_endpoint.errors import handle_errors
from local_endpoint.limits import Gate
from local_endpoint.openapi import describe
from local_endpoint.webhooks import Webhooks
from local_endpoint.worker_api import worker_router

__all__ = ["create_app"]

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
_FILES = {"app.js", "docs.js", "form.js", "json.js", "snippets.js", "style.css"}


def create_app(core: Core) -> FastAPI:
    """Everything under one roof: both APIs, their document, the playground, and what runs beside them."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        beside = [asyncio.create_task(core.keep_time()), asyncio.create_task(Webhooks(core).run())]
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
    describe(app, core.config.endpoint_id)
    client = client_router(core, Gate(core.config.keys, limits=core.config.rate_limits))
    app.include_router(client, prefix="/v2/{endpoint_id}")
    # The seeds write one of their URLs with v1.
    app.include_router(client, prefix="/v1/{endpoint_id}", include_in_schema=False)
    app.include_router(worker_router(core), prefix="/v2/{endpoint_id}")
    _add_pages(app, core)
    return app


def _add_pages(app: FastAPI, core: Core) -> None:
    @app.get("/", include_in_schema=False)
    async def playground() -> Response:
        return FileResponse(_PAGES / "index.html", headers=_PAGE_HEADERS)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return FileResponse(_PAGES / "docs.html", headers=_PAGE_HEADERS)

    @app.get("/playground/config.json", include_in_schema=False)
    async def config() -> Response:
        page = {"endpoint_id": core.config.endpoint_id, "input_schema": core.input_schema}
        return Response(json.dumps(page), headers=_PAGE_HEADERS, media_type="application/json")

    @app.get("/playground/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        if name not in _FILES:
            return Response(status_code=404)
        return FileResponse(_PAGES / name, headers=_PAGE_HEADERS)
