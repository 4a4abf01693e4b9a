"""`python -m local_endpoint`: the endpoint alone. It prints what its callers and its workers need."""

import argparse
import asyncio
import signal
import sqlite3
import sys
from urllib.parse import quote

from local_endpoint.options import OptionError, add_options, config_from, curl_line, host_url, page_link
from local_endpoint.server import Server, listen, run_loop
from local_endpoint.store import FolderInUse
from local_endpoint.worker_api import worker_environment


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM. Returns 1 when it cannot start, 2 for an option, with one readable line."""
    parser = argparse.ArgumentParser(prog="local_endpoint", description=__doc__)
    add_options(parser)
    args = parser.parse_args(argv)
    try:
        run_loop(_serve(args))
    except OptionError as error:
        print(f"cannot start: {error}", file=sys.stderr)
        return 2
    except (FolderInUse, OSError, ValueError, sqlite3.DatabaseError) as error:
        print(f"cannot start: {error}", file=sys.stderr)
        return 1
    return 0


async def _serve(args: argparse.Namespace) -> None:
    config = config_from(args)
    listener = listen(args.host, args.port)
    base_url = args.public_url or host_url(listener)
    server = Server(config)
    if server.core.store.salvaged:
        print(server.core.store.salvaged, file=sys.stderr)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, server.stop)
    print(f"endpoint   {base_url}/v2/{config.endpoint_id}")
    print(f"playground {page_link(base_url, config)}")
    print(f"console    {base_url}/console   API document {base_url}/docs")
    print(f"key        {config.keys[0]}")
    print("\nA worker needs this environment; give each a RUNPOD_POD_ID of its own:\n")
    for name, value in worker_environment(config, base_url, "worker-1", quote(args.gpu)).items():
        print(f"{name}={value}")
    print(f"\nTry it:\n\n{curl_line(base_url, config)}\n", flush=True)
    await server.serve(sockets=[listener])


if __name__ == "__main__":
    sys.exit(main())
