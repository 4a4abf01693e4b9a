"""What the handler answers when things go wrong beneath it."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from sdworker.engine.errors import DeviceLost, EngineError
from sdworker.serverless.service import Service
from sdworker.settings import Settings

JOB = {"id": "job-1", "input": {"prompt": "x"}}


class FailingWorker:
    """Stands where the worker is, and fails as told."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    async def answer(self, job: Mapping[str, Any], *listeners: Any) -> list[dict[str, Any]]:
        raise self._error


def service(error: BaseException) -> Service:
    made = Service(Settings())
    made._worker = FailingWorker(error)  # type: ignore[assignment]
    return made


async def test_a_panic_of_foreign_code_is_told_and_survived() -> None:
    class PanicException(BaseException):
        """As Rust's are: no Exception."""

    answer = await service(PanicException("a thread could not be started")).handle(JOB)
    assert isinstance(answer, dict)
    assert "its log has the cause" in answer["error"]


async def test_a_lost_device_asks_for_a_fresh_worker() -> None:
    answer = await service(DeviceLost("the GPU failed")).handle(JOB)
    assert answer == {"error": "the GPU failed", "refresh_worker": True}


async def test_what_a_user_can_mend_is_told_as_it_is() -> None:
    assert await service(EngineError("ask for less")).handle(JOB) == {"error": "ask for less"}


async def test_what_nobody_foresaw_is_told_without_its_insides_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    answer = await service(RuntimeError("secret in /root/.ssh")).handle(JOB)
    assert isinstance(answer, dict)
    assert "secret" not in answer["error"]
    assert "job-1" in answer["error"]
    assert "secret in /root/.ssh" in caplog.text


async def test_an_error_can_always_be_sent_as_json() -> None:
    answer = await service(EngineError("half a \ud83d pair")).handle(JOB)
    assert isinstance(answer, dict)
    answer["error"].encode("utf-8")


async def test_cancellation_is_passed_on() -> None:
    with pytest.raises(asyncio.CancelledError):
        await service(asyncio.CancelledError()).handle(JOB)
