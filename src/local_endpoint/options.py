"""The endpoint's command-line options, shared by `python -m local_endpoint` and `sdworker serve`."""

import argparse
import json
import re
import shlex
import socket
from pathlib import Path
from urllib.parse import quote

from local_endpoint.config import MB, Config
from local_endpoint.credentials import load_credentials
from local_endpoint.simulation import Simulation

__all__ = ["OptionError", "add_options", "config_from", "curl_line", "host_url", "page_link"]

_TIMES = (
    "retention",
    "sync_retention",
    "execution_timeout",
    "ttl",
    "worker_timeout",
    "ping_interval",
    "request_timeout",
)
_ENDPOINT_ID = re.compile(r"[A-Za-z0-9._~-]{1,100}")
_LONGEST_S = 366 * 86_400
_DEFAULTS = Config.__dataclass_fields__


class OptionError(ValueError):
    """An option makes no sense; the message names it, and says what would."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add all of them."""
    serving = parser.add_argument_group("endpoint")
    serving.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    serving.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
    serving.add_argument("--public-url", help="how workers and callers on other machines reach this endpoint")
    serving.add_argument("--endpoint-id", default=_default("endpoint_id"), help="(default: %(default)s)")
    serving.add_argument(
        "--data",
        type=Path,
        default=Path("~/.local/share/sdworker-endpoint").expanduser(),
        help="folder for jobs and keys, readable by its owner only (default: %(default)s)",
    )
    serving.add_argument(
        "--salvage",
        action="store_true",
        help="where the jobs' file in --data is damaged: keep what can be read, and put the file aside",
    )
    serving.add_argument(
        "--key",
        action="append",
        help="a caller's API key; may be given again (default: made and kept in --data)",
    )
    serving.add_argument("--worker-key", help="the workers' key (default: made and kept in --data)")
    serving.add_argument("--gpu", default="cpu", help="what callers see as gpu (default: %(default)s)")
    serving.add_argument(
        "--input-schema", type=Path, help="JSON Schema file of a job's input, for the playground"
    )
    serving.add_argument(
        "--explain-command",
        type=shlex.split,
        default=(),
        metavar="COMMAND",
        help="a program that answers lines of JSON about jobs' inputs, for the page: how long prompts are, "
        "what ControlNets are shown (default: none; `sdworker serve` has one of its own)",
    )
    serving.add_argument(
        "--max-queue-mb",
        type=float,
        default=int(str(_default("max_queue_bytes"))) / MB,
        metavar="MB",
        help="most that the inputs of waiting jobs may take; more are answered 507 (default: %(default)g)",
    )
    serving.add_argument(
        "--strict",
        action=argparse.BooleanOptionalAction,
        default=_default("strict"),
        help="refuse what the platform refuses: short times in a policy, results of /run over 10 MB, jobs past "
        "their ttl (default: on)",
    )
    serving.add_argument(
        "--simulate",
        action="append",
        default=[],
        metavar="NAME=VALUE,…",
        help="the platform's bad days: cold-start=S, idle=S, throttled=N, rate=SHARE:STATUS, lose-worker=SHARE, "
        "lose-after=S, webhook-delay=S, seed=N; docs/endpoint.md tells what each does",
    )
    serving.add_argument(
        "--no-rate-limits", action="store_true", help="let every key ask as often as it likes"
    )

    times = parser.add_argument_group("times, in seconds")
    _add_time(times, "--retention", "retention_s", "how long a finished /run job is kept")
    _add_time(times, "--sync-retention", "sync_retention_s", "how long a finished /runsync job is kept")
    _add_time(times, "--execution-timeout", "execution_timeout_ms", "a job's time with a worker", 1000)
    _add_time(times, "--ttl", "ttl_ms", "a job's time from arrival to end", 1000)
    _add_time(times, "--worker-timeout", "worker_timeout_s", "a worker silent for so long is dead")
    _add_time(times, "--ping-interval", "ping_interval_s", "between a worker's signs of life, at least 1")
    _add_time(times, "--request-timeout", "request_timeout_s", "for a request to arrive whole")
    parser.add_argument(
        "--max-requeues",
        type=int,
        default=_default("max_requeues"),
        help="how often a job is queued again when its worker is lost (default: %(default)s)",
    )


def config_from(args: argparse.Namespace) -> Config:
    """The settings. Raises `OSError`, `OptionError` or `ValueError`, saying which file or option is wrong."""
    _check(args)
    try:
        simulation = Simulation.parse(",".join(args.simulate)) if args.simulate else Simulation()
    except ValueError as error:
        raise OptionError(f"--simulate: {error}") from error
    try:
        kept = load_credentials(args.data)
    except OSError as error:
        raise OSError(
            f"the data folder {args.data} cannot be used: {error.strerror or error}; make room or give "
            "leave to write there, or name another with --data"
        ) from error
    schema = None
    if args.input_schema:
        try:
            schema = json.loads(args.input_schema.read_text())
        except ValueError as error:
            raise OptionError(f"--input-schema {args.input_schema} is not JSON: {error}") from error
        except OSError as error:
            raise OptionError(f"--input-schema {args.input_schema}: {error.strerror}") from error
    return Config(
        folder=args.data,
        salvage=args.salvage,
        keys=tuple(args.key or [kept.key]),
        worker_key=kept.worker_key if args.worker_key is None else args.worker_key,
        endpoint_id=args.endpoint_id,
        retention_s=args.retention,
        sync_retention_s=args.sync_retention,
        execution_timeout_ms=int(args.execution_timeout * 1000),
        ttl_ms=int(args.ttl * 1000),
        worker_timeout_s=args.worker_timeout,
        ping_interval_s=max(1, args.ping_interval),
        request_timeout_s=args.request_timeout,
        max_requeues=args.max_requeues,
        rate_limits=not args.no_rate_limits,
        strict=args.strict,
        simulation=simulation,
        max_queue_bytes=int(args.max_queue_mb * MB),
        explain_command=tuple(args.explain_command),
        input_schema=schema,
    )


def _check(args: argparse.Namespace) -> None:
    for name in _TIMES:
        if not 0 < getattr(args, name) <= _LONGEST_S:
            raise OptionError(f"--{name.replace('_', '-')} must be more than 0 and at most {_LONGEST_S} s")
    if not 0 < args.max_queue_mb < 2**30:
        raise OptionError("--max-queue-mb must be more than 0")
    if args.max_requeues < 0:
        raise OptionError(f"--max-requeues must be 0 or more; it is {args.max_requeues}")
    if not _ENDPOINT_ID.fullmatch(args.endpoint_id):
        raise OptionError(
            f"--endpoint-id {args.endpoint_id!r}: should be up to 100 letters, digits, '-', '_', '.' or '~': "
            "it is part of a URL"
        )
    given_worker_key = [] if args.worker_key is None else [args.worker_key]
    for key in (args.key or []) + given_worker_key:
        _check_key(key)


def _check_key(key: str) -> None:
    """An empty key, as of a variable that is not set, would let in everyone who has none."""
    if not key or not all("!" <= letter <= "~" for letter in key):
        raise OptionError("a key must be one or more printable ASCII characters without spaces")


def host_url(listener: socket.socket) -> str:
    """The URL of a listening socket, as this machine sees it."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def page_link(base_url: str, config: Config) -> str:
    """The playground with the first key. What stands behind # stays in the browser: no server or log sees it."""
    return f"{base_url}/#key={quote(config.keys[0], safe='')}"


def curl_line(base_url: str, config: Config) -> str:
    """The documentation's first request, with the host and key that work here."""
    return (
        f"curl -X POST {base_url}/v2/{config.endpoint_id}/runsync \\\n"
        "    -H 'Content-Type: application/json' \\\n"
        f"    -H {shlex.quote(f'Authorization: Bearer {config.keys[0]}')} \\\n"
        """    -d '{"input": {"prompt": "a cute magical flying dog, """
        """fantasy art drawn by disney concept artists"}}'"""
    )


def _default(name: str) -> object:
    return _DEFAULTS[name].default


def _add_time(
    group: argparse._ArgumentGroup, option: str, setting: str, meaning: str, units_per_s: int = 1
) -> None:
    default_s = float(str(_default(setting))) / units_per_s
    group.add_argument(
        option, type=float, default=default_s, metavar="S", help=f"{meaning} (default: %(default)g)"
    )
