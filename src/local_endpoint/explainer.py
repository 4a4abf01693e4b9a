"""What a job's input will come to, asked of the worker's own code: prompts' lengths, ControlNets' hints.

A program that answers lines of JSON, kept running. The endpoint knows no tokenizer and reads no pictures: whoever
starts the workers names the program (`--explain-command`).
"""

import asyncio
import contextlib
import json
import subprocess
from collections.abc import Sequence
from typing import Any

__all__ = ["Explainer", "NoExplainer"]

_TIMEOUT_S = 15
_LONGEST_LINE = 1024 * 1024


class NoExplainer(Exception):
    """Nothing can be told: there is no such program, or it does not answer."""


class Explainer:
    """One such program, started when it is first asked, and anew when it has ended."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    async def ask(self, given: dict[str, Any]) -> dict[str, Any]:
        """Its answer to a line. Raises `NoExplainer`."""
        if not self._command:
            raise NoExplainer("this endpoint knows no program that reads prompts (--explain-command)")
        async with self._turn:
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    return await self._answer(json.dumps(given).encode() + b"\n")
            except (OSError, ValueError, TimeoutError) as error:
                await self.close()
                raise NoExplainer("the program that reads prompts does not answer") from error
            except asyncio.CancelledError:
                await self.close()  # its answer would be taken for the next one's
                raise

    async def _answer(self, line: bytes) -> dict[str, Any]:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                limit=_LONGEST_LINE,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line)
        await self._process.stdin.drain()
        answer = json.loads(await self._process.stdout.readline())
        if not isinstance(answer, dict):
            raise ValueError("no object")
        return answer

    async def close(self) -> None:
        """End the program."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
