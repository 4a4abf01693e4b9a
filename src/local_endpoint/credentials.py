"""The keys of an endpoint, made at its first start and kept beside its jobs.

Workers on other machines go on with the key they were given when the endpoint is started again.
"""

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Credentials", "load_credentials"]

_FILE_NAME = "keys.json"


@dataclass(frozen=True, slots=True)
class Credentials:
    """One key for callers, and one for workers: neither opens the other side."""

    key: str
    worker_key: str


def load_credentials(folder: Path) -> Credentials:
    """The folder's keys, made if there are none. Raises `OSError`, and `ValueError` for a broken file."""
    path = folder / _FILE_NAME
    if not path.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = {"key": f"local_{secrets.token_hex(16)}", "worker_key": f"worker_{secrets.token_hex(16)}"}
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w") as file:
            json.dump(made, file)
    try:
        kept = json.loads(path.read_text())
        return Credentials(str(kept["key"]), str(kept["worker_key"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); remove it to have new keys made") from error
