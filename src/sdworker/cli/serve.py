"""`sdworker serve`: the endpoint on this machine, with workers of its own."""

import argparse
import asyncio
import contextlib
import ctypes
import itertools
import json
import os
import signal
import sqlite3
import sys
from asyncio.subprocess import Process
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from local_endpoint.config import Config
from local_endpoint.core import Core
from local_endpoint.options import OptionError, add_options, config_from, curl_line, host_url, page_link
from local_endpoint.server import Server, listen, run_loop
from local_endpoint.store import FolderInUse
from local_endpoint.worker_api import worker_environment
from sdworker.cli.own_workers import OwnWorkers
from sdworker.cli.own_workers import Process as Identity

__all__ = ["add_parser", "run"]

_HANDLER = Path(__file__).resolve().parents[3] / "handler.py"
_READY_TIMEOUT_S = 600
_DRAIN_TIMEOUT_S = 120
_RESTART_PAUSE_S = 2
_SCHEMA_TIMEOUT_S = 30
_LOOK_S = 0.2
_SCHEMA_PROGRAM = "from sdworker.cli import serve; serve.print_input_schema()"


class _WorkerError(Exception):
    """A worker cannot be started; the message says how it ended."""


def add_parser(subparsers: Any) -> None:
    """Declare the subcommand."""
    parser = subparsers.add_parser(
        "serve",
        help="run the endpoint and workers on this machine",
        description="Serves RunPod's job API on this machine, with workers in the SDK's production mode. "
        "Prints a curl line when they are ready; Ctrl-C finishes the jobs in progress and stops everything.",
    )
    workers = parser.add_argument_group("workers")
    workers.add_argument(
        "--workers", type=int, default=1, help="how many to start here (default: %(default)s)"
    )
    workers.add_argument(
        "--handler", type=Path, default=_HANDLER, help="the worker's script (default: %(default)s)"
    )
    add_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C; returns the exit code."""
    try:
        run_loop(_serve(arguments))
    except OptionError as error:
        print(f"sdworker: cannot serve: {error}", file=sys.stderr)
        return 2
    except (FolderInUse, OSError, ValueError, sqlite3.DatabaseError, _WorkerError) as error:
        print(f"sdworker: cannot serve: {error}", file=sys.stderr)
        return 1
    return 0


def print_input_schema() -> None:
    """Print the JSON Schema of a job's input. In a process of its own, but without torch: a worker is starting."""
    from sdworker.assets import AddOns
    from sdworker.catalogue import contract_of
    from sdworker.settings import load_settings

    settings = load_settings()
    print(json.dumps(contract_of(settings).schema(AddOns.from_settings(settings).all_names())))


async def _serve(arguments: argparse.Namespace) -> None:
    config = config_from(arguments)
    if not config.explain_command and arguments.handler == _HANDLER:
        config = replace(config, explain_command=(sys.executable, "-m", "sdworker.cli.explainer"))
    if arguments.workers < 0:
        raise OptionError(f"--workers must be 0 or more; it is {arguments.workers}")
    if not arguments.handler.is_file():
        raise OptionError(f"--handler {arguments.handler} is not a file")
    listener = listen(arguments.host, arguments.port)
    base_url = arguments.public_url or host_url(listener)
    server = Server(config)
    if server.core.store.salvaged:
        print(server.core.store.salvaged, file=sys.stderr)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    serving = asyncio.create_task(server.serve(sockets=[listener]))
    fleet = _Fleet(server.core, arguments.handler, host_url(listener), quote(arguments.gpu))
    server.core.on_retire = fleet.replace
    learning = asyncio.create_task(_learn_schema(server.core))
    ready = asyncio.create_task(fleet.start(arguments.workers))
    try:
        print(f"starting {arguments.workers} worker(s) …", file=sys.stderr)
        await _first(stop, ready, serving)
        if ready.done():
            await ready
            await _first(stop, learning, timeout_s=_SCHEMA_TIMEOUT_S)
            print(_greeting(config, base_url, quote(arguments.gpu)), flush=True)
            await _first(stop, serving)
    finally:
        if stop.is_set():
            print("finishing the jobs in progress; Ctrl-C again to stop at once …", file=sys.stderr)
        stop.clear()
        for task in (ready, learning):
            task.cancel()
        await fleet.stop(stop)
        server.stop()
        await serving


async def _first(event: asyncio.Event, *tasks: asyncio.Task[Any], timeout_s: float | None = None) -> None:
    """Wait for any of these."""
    waiting = asyncio.create_task(event.wait())
    await asyncio.wait({waiting, *tasks}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


def _greeting(config: Config, base_url: str, gpu: str) -> str:
    environment = worker_environment(config, base_url, "worker-elsewhere", gpu)
    lines = [f"  {name}={value}" for name, value in environment.items()]
    return "\n".join(
        [
            f"\nready: {base_url}/v2/{config.endpoint_id}",
            f"playground: {page_link(base_url, config)}",
            f"console: {base_url}/console   API document: {base_url}/docs   key: {config.keys[0]}",
            "\nA worker on another machine needs this environment, with a RUNPOD_POD_ID of its own:\n",
            *lines,
            f"\nTry it:\n\n{curl_line(base_url, config)}\n",
        ]
    )


async def _learn_schema(core: Core) -> None:
    """Ask the worker's code what a job's input may be; without an answer the playground's form is plainer."""
    if core.input_schema is not None:
        return
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _SCHEMA_PROGRAM,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        preexec_fn=_end_with_parent,
    )
    try:
        schema, _ = await process.communicate()
        if process.returncode == 0:
            core.input_schema = json.loads(schema)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


class _Fleet:
    """The workers of this machine: started, replaced when they end, and stopped together."""

    def __init__(self, core: Core, handler: Path, base_url: str, gpu: str) -> None:
        self._core = core
        self._handler = handler.resolve()
        self._base_url = base_url
        self._gpu = gpu
        self._processes: dict[str, Process] = {}
        self._record = OwnWorkers(core.config.folder)
        self._left_over: dict[str, Identity] = {}
        """Those of an earlier `serve` that are still at work."""
        self._keepers: list[asyncio.Task[None]] = []

    async def start(self, count: int) -> None:
        """Start so many and wait until all of them ask for jobs. Raises `_WorkerError` if they never do."""
        for name, identity in self._record.earlier().items():
            if identity.is_alive:
                self._left_over[name] = identity
                self._record.note(name, identity)
            else:
                await self._core.exited(name)
        self._keepers = [asyncio.create_task(self._see_off(name)) for name in self._left_over]
        free = (name for n in itertools.count(1) if (name := f"local-{n}") not in self._left_over)
        names = list(itertools.islice(free, count))
        for name in names:
            await self._start(name)
        end_s = asyncio.get_running_loop().time() + _READY_TIMEOUT_S
        while not {worker.id for worker in self._core.workers if worker.asks} >= set(names):
            for name, process in self._processes.items():
                if process.returncode is not None:
                    raise _WorkerError(f"worker {name} ended with exit code {process.returncode}")
            if asyncio.get_running_loop().time() > end_s:
                raise _WorkerError(f"the workers were not ready within {_READY_TIMEOUT_S} s")
            await asyncio.sleep(0.1)
        self._keepers += [asyncio.create_task(self._keep(name)) for name in names]

    def replace(self, name: str) -> None:
        """Let a worker that asked for it finish and be started anew."""
        if process := self._processes.get(name):
            _signal(process, signal.SIGTERM)

    async def stop(self, hurry: asyncio.Event) -> None:
        """Let the workers finish their jobs, then end them; at once if `hurry` is set."""
        for keeper in self._keepers:
            keeper.cancel()
        self._core.close_queue()
        for process in self._processes.values():
            _signal(process, signal.SIGTERM)
        ended = asyncio.create_task(self._all_ended())
        await _first(hurry, ended, timeout_s=_DRAIN_TIMEOUT_S)
        for process in self._processes.values():
            _kill_group(process.pid)
        for name, identity in self._left_over.items():
            if identity.is_alive:
                _kill_group(identity.pid)
            self._record.note(name, None)
        await ended
        for name in self._processes:
            self._record.note(name, None)

    async def _all_ended(self) -> None:
        for process in self._processes.values():
            await process.wait()
        # They are not this process's children: nobody tells it of their end.
        while any(identity.is_alive for identity in self._left_over.values()):  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)

    async def _start(self, name: str) -> None:
        environment = {
            # The SDK's own checks want the internet and 4 GB of free memory; a laptop may have neither.
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
            "RUNPOD_SKIP_GPU_CHECK": "true",
            **os.environ,
            **worker_environment(self._core.config, self._base_url, name, self._gpu),
        }
        self._processes[name] = await asyncio.create_subprocess_exec(
            sys.executable,
            str(self._handler),
            env=environment,
            cwd=self._handler.parent,
            stdout=sys.stderr,
            start_new_session=True,  # the terminal's Ctrl-C is for us alone
            preexec_fn=_end_with_parent,
        )
        self._record.note(name, Identity.of(self._processes[name].pid))

    async def _see_off(self, name: str) -> None:
        """Let a worker of an earlier `serve` finish its job; what it does not finish goes back to the queue."""
        identity = self._left_over[name]
        while identity.is_alive:
            self._core.workers.seen(name, None)  # it asks for nothing more, but is not lost
            await asyncio.sleep(_LOOK_S)
        _kill_group(identity.pid)
        await self._core.exited(name)
        del self._left_over[name]
        self._record.note(name, None)

    async def _keep(self, name: str) -> None:
        """Start a worker anew whenever it ends."""
        while True:
            code = await self._processes[name].wait()
            print(f"worker {name} ended with exit code {code}; starting it again", file=sys.stderr)
            _kill_group(self._processes[name].pid)
            await self._core.exited(name)
            await asyncio.sleep(_RESTART_PAUSE_S)
            await self._start(name)


def _signal(process: Process, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


def _kill_group(pid: int) -> None:
    """End what a worker left: the SDK's ping process would outlive one that is killed."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _end_with_parent() -> None:
    """Have the kernel end this process when its parent is killed (Linux; elsewhere nothing happens)."""
    with contextlib.suppress(OSError, AttributeError):
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
