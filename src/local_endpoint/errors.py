"""What can go wrong for a caller, and how every error looks: `{"error": "<one readable sentence>"}`."""

import json
import logging
import sqlite3

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from local_endpoint.core import NoRoom
from local_endpoint.jobs import NotAllowed
from local_endpoint.ledger import UnknownJob
from local_endpoint.store import StoreUnavailable

__all__ = ["ApiError", "error_response", "handle_errors"]

_log = logging.getLogger(__name__)


class ApiError(Exception):
    """An answer other than 200. The message is for the caller."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers


def error_response(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """The body that every error has."""
    body = json.dumps({"error": message})
    return Response(body, status, headers, media_type="application/json")


def handle_errors(app: FastAPI) -> None:
    """Turn every exception into such an answer."""

    async def api_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return error_response(error.status, error.message, error.headers)

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = {404: "no such route", 405: f"{request.method} is not a method of this route"}
        return error_response(
            error.status_code, message.get(error.status_code, error.detail), dict(error.headers or {})
        )

    async def unknown_job(request: Request, error: Exception) -> Response:
        return error_response(404, "no such job, or its data has expired")

    async def not_allowed(request: Request, error: Exception) -> Response:
        return error_response(400, str(error))

    async def unavailable(request: Request, error: Exception) -> Response:
        _log.error("%s", error)
        return error_response(503, f"{error}; nothing was changed, try again later", {"Retry-After": "5"})

    async def no_room(request: Request, error: Exception) -> Response:
        return error_response(507, str(error), {"Retry-After": "10"})

    async def bug(request: Request, error: Exception) -> Response:
        return error_response(500, "internal error; the endpoint's log has the details")

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(UnknownJob, unknown_job)
    app.add_exception_handler(NotAllowed, not_allowed)
    app.add_exception_handler(StoreUnavailable, unavailable)
    app.add_exception_handler(NoRoom, no_room)
    app.add_exception_handler(sqlite3.Error, unavailable)
    app.add_exception_handler(Exception, bug)
