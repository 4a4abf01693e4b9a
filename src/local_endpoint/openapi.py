"""The OpenAPI document of the callers' side: what each route takes and answers, with examples.

Bodies are read and checked by hand (`submissions.py`), because a bad one is a 400 here and never
FastAPI's 422; so their schemas are written out here.
"""

import copy
import warnings
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from local_endpoint.config import Config
from local_endpoint.jobs import Status

__all__ = [
    "CANCEL",
    "HEALTH",
    "PURGE_QUEUE",
    "REQUESTS",
    "RETRY",
    "RUN",
    "RUNSYNC",
    "STATUS",
    "STATUS_SYNC",
    "STREAM",
    "describe",
]

_ID = "c80ffee4-f315-4e25-a146-0f3d98cf024b"
_INPUT = {"prompt": "a cute magical flying dog, fantasy art drawn by disney concept artists"}
_OUTPUT = [{"image": "iVBORw0KGgo…", "seed": 40264}]
_MS = {"type": "integer", "minimum": 0}
_STATUS = {"type": "string", "enum": [str(status) for status in Status]}

_QUEUED_EXAMPLE = {"id": _ID, "status": "IN_QUEUE"}
_RUNNING_EXAMPLE = {
    "delayTime": 2624,
    "id": _ID,
    "input": _INPUT,
    "output": {"step": 5, "steps": 25, "progress": 0.2},
    "status": "IN_PROGRESS",
    "workerId": "local-1",
}
_DONE_EXAMPLE = {
    "delayTime": 17158,
    "executionTime": 4633,
    "gpu": "24",
    "id": _ID,
    "input": _INPUT,
    "output": _OUTPUT,
    "status": "COMPLETED",
    "workerId": "local-1",
}
_FAILED_EXAMPLE = {**_DONE_EXAMPLE, "error": "steps: 900 given, 1 to 500 allowed", "status": "FAILED"}
del _FAILED_EXAMPLE["output"]


def _time(least_ms: int, default_ms: int) -> dict[str, Any]:
    return {"type": ["integer", "null"], "minimum": least_ms, "maximum": 604_800_000, "default": default_ms}


_SUBMISSION = {
    "type": "object",
    "required": ["input"],
    "properties": {
        "input": {"type": "object", "description": "The job's input, as its worker defines it."},
        "webhook": {
            "type": ["string", "null"],
            "format": "uri",
            "pattern": "^https?://",
            "maxLength": 2048,
            "description": "Gets the body of /status by POST at the end; wants 200, or is tried again.",
        },
        "policy": {
            "type": ["object", "null"],
            "properties": {
                "executionTimeout": _time(5_000, 600_000),
                "ttl": _time(10_000, 86_400_000),
                "lowPriority": {"type": ["boolean", "null"], "default": False},
            },
        },
        "s3Config": {
            "type": ["object", "null"],
            "description": "The bucket for the results, passed on to the worker.",
            "properties": {
                name: {"type": "string"} for name in ("accessId", "accessSecret", "bucketName", "endpointUrl")
            },
        },
    },
    "example": {"input": _INPUT},
}

_JOB: dict[str, Any] = {
    "type": "object",
    "required": ["id", "status", "delayTime"],
    "properties": {
        "id": {"type": "string"},
        "status": _STATUS,
        "delayTime": {**_MS, "description": "Milliseconds in the queue."},
        "executionTime": {**_MS, "description": "Milliseconds with the worker."},
        "workerId": {"type": "string"},
        "gpu": {"type": ["string", "null"]},
        "input": {"type": "object"},
        "output": {"description": "The result; while IN_PROGRESS, the progress."},
        "error": {"type": "string"},
    },
}
_QUEUED = {
    "type": "object",
    "required": ["id", "status"],
    "properties": {"id": {"type": "string"}, "status": _STATUS},
}
_COUNT = {"type": "integer", "minimum": 0}


def _counts(*names: str) -> dict[str, Any]:
    return {"type": "object", "required": list(names), "properties": dict.fromkeys(names, _COUNT)}


_HEALTH = {
    "type": "object",
    "required": ["jobs", "workers"],
    "properties": {
        "jobs": _counts("completed", "failed", "inProgress", "inQueue", "retried"),
        "workers": _counts("idle", "initializing", "ready", "running", "throttled"),
    },
}
_HEALTH_EXAMPLE = {
    "jobs": {"completed": 12, "failed": 1, "inProgress": 1, "inQueue": 3, "retried": 0},
    "workers": {"idle": 0, "initializing": 0, "ready": 0, "running": 1, "throttled": 0},
}
_STREAM = {
    "type": "object",
    "required": ["status", "stream"],
    "properties": {
        "status": _STATUS,
        "stream": {
            "type": "array",
            "items": {"type": "object", "required": ["output"], "properties": {"output": {}}},
        },
    },
}
_PURGED = {
    "type": "object",
    "required": ["removed", "status"],
    "properties": {"removed": _COUNT, "status": {"const": "completed"}},
}
_REQUESTS = {
    "type": "object",
    "required": ["requests"],
    "properties": {
        "requests": {
            "type": "array",
            "items": {
                **_JOB,
                "required": [*_JOB["required"], "createdAt"],
                "properties": {
                    **_JOB["properties"],
                    "createdAt": {**_MS, "description": "When it came, in milliseconds since 1970."},
                },
            },
        }
    },
}

_ERROR_SCHEMA = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
_ERRORS = {
    400: ("The request makes no sense", "input must be a JSON object; it is missing"),
    401: ("No key, or a wrong one", "missing or unknown API key: send it as 'Authorization: Bearer KEY'"),
    404: ("No such endpoint or job", "no such job, or its data has expired"),
    408: ("The body did not arrive in time", "the body did not arrive in time"),
    413: ("The body is too large", "the body is larger than the limit of 10 MB"),
    429: (
        "Too many requests; Retry-After says when",
        "more than 1000 /run requests in 10 s with this key; wait 3 s",
    ),
    507: (
        "No room for more work; Retry-After says when to ask again",
        "the disk of the endpoint's data folder is nearly full (20 MB left); new jobs are taken again when "
        "results have expired or there is more room",
    ),
    503: ("The store cannot write", "the store cannot write: database or disk is full"),
}


def _response(description: str, schema: dict[str, Any], *examples: dict[str, Any]) -> dict[str, Any]:
    named = {str(example.get("status", "example")): {"value": example} for example in examples}
    return {
        "description": description,
        "content": {"application/json": {"schema": schema, "examples": named}},
    }


def _parameter(
    place: str, name: str, description: str, example: Any, schema: dict[str, Any]
) -> dict[str, Any]:
    return {
        "in": place,
        "name": name,
        "required": place == "path",
        "description": description,
        "example": example,
        "schema": schema,
    }


_JOB_ID = _parameter("path", "job_id", "The job, as /run or /runsync named it", _ID, {"type": "string"})
_WAIT = _parameter(
    "query",
    "wait",
    "How long to wait for the end, in ms; at least 1000 and at most 300000 are waited. 90000 unless given.",
    30_000,
    {"type": "integer", "minimum": 0, "maximum": 999_999_999},
)


def _route(
    summary: str,
    answer: dict[str, Any],
    errors: tuple[int, ...],
    *,
    parameters: tuple[dict[str, Any], ...] = (),
    body: bool = False,
) -> dict[str, Any]:
    """The arguments that FastAPI's route decorators take."""
    responses: dict[int, dict[str, Any]] = {200: answer}
    for status in (401, 404, 429, 503, *errors):
        description, example = _ERRORS[status]
        responses[status] = _response(description, _ERROR_SCHEMA, {"error": example})
    extra: dict[str, Any] = {"parameters": list(parameters), "security": [{"key": []}]}
    if body:
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": _SUBMISSION}}}
    return {"summary": summary, "responses": responses, "openapi_extra": extra, "response_model": None}


_STATUS_ANSWER = _response("The job as it is", _JOB, _RUNNING_EXAMPLE, _DONE_EXAMPLE, _FAILED_EXAMPLE)

_LINKS = {
    operation: {"operationId": operation, "parameters": {"job_id": "$response.body#/id"}}
    for operation in ("get-status", "get-status-sync", "get-stream", "post-cancel")
}

RUN = _route(
    "Queue a job and return at once; body up to 10 MB, result kept 30 minutes",
    {**_response("The job is queued", _QUEUED, _QUEUED_EXAMPLE), "links": _LINKS},
    (400, 408, 413, 507),
    body=True,
)
RUNSYNC = _route(
    "Queue a job and wait for its end; body up to 20 MB, result kept 1 minute",
    _STATUS_ANSWER,
    (400, 408, 413, 507),
    parameters=(_WAIT,),
    body=True,
)
STATUS = _route("A job's state, progress and result", _STATUS_ANSWER, (), parameters=(_JOB_ID,))
STATUS_SYNC = _route(
    "The same, waiting for the job's end", _STATUS_ANSWER, (400, 408, 413), parameters=(_JOB_ID, _WAIT)
)
STREAM = _route(
    "What a streaming job has yielded since the last call",
    _response("The next parts", _STREAM, {"status": "IN_PROGRESS", "stream": [{"output": "a"}]}),
    (408, 413),
    parameters=(_JOB_ID,),
)
CANCEL = _route(
    "Cancel a job; one that is over stays as it is",
    _response("The job's state now", _JOB, {"delayTime": 10, "id": _ID, "status": "CANCELLED"}),
    (),
    parameters=(_JOB_ID,),
)
RETRY = _route(
    "Queue a FAILED or TIMED_OUT job again under its id; 400 for any other",
    _response("The job is queued", _QUEUED, _QUEUED_EXAMPLE),
    (400,),
    parameters=(_JOB_ID,),
)
PURGE_QUEUE = _route(
    "Cancel all jobs that wait; those IN_PROGRESS go on",
    _response("Done", _PURGED, {"removed": 2, "status": "completed"}),
    (),
)
HEALTH = _route("Jobs and workers in numbers", _response("Counts", _HEALTH, _HEALTH_EXAMPLE), ())
REQUESTS = _route(
    "The newest hundred jobs",
    _response(
        "Newest first",
        _REQUESTS,
        {"requests": [{**_QUEUED_EXAMPLE, "delayTime": 10, "createdAt": 1_790_000_000_000}]},
    ),
    (),
)


def _operation_id(method: str, path: str) -> str:
    """`get-status` and the like; `path` is the whole one, with the endpoint's id."""
    return f"{method}-{path.split('/')[3]}"


def _times_of(config: Config) -> dict[str, Any]:
    """What a job's `policy` may say, on an endpoint with these settings."""
    least = (config.least_execution_timeout_ms, config.least_ttl_ms) if config.strict else (1, 1)
    return {
        "executionTimeout": _time(least[0], config.execution_timeout_ms),
        "ttl": _time(least[1], config.ttl_ms),
    }


def describe(app: FastAPI, config: Config) -> None:
    """Have the app serve this document, with the endpoint's id in its paths and its own times."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            with warnings.catch_warnings():
                # About two methods of one route sharing an operation id; they get their own below.
                warnings.simplefilter("ignore", UserWarning)
                schema = get_openapi(
                    title=app.title, version=app.version, description=app.description, routes=app.routes
                )
            schema = copy.deepcopy(schema)  # what the routes share is not this app's alone
            schema["paths"] = {
                path.replace("{endpoint_id}", config.endpoint_id): item
                for path, item in schema["paths"].items()
            }
            for path, item in schema["paths"].items():
                for method, operation in item.items():
                    operation["operationId"] = _operation_id(method, path)
                    if "requestBody" in operation:
                        body = operation["requestBody"]["content"]["application/json"]["schema"]
                        body["properties"]["policy"]["properties"] |= _times_of(config)
            schema["components"] = {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}}
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
