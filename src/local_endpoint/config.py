"""Everything that can be set about an endpoint, with the platform's own values as defaults."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from local_endpoint.simulation import Simulation

__all__ = ["MB", "Config"]

MB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One endpoint's settings. Times are seconds or, where callers see them, milliseconds."""

    folder: Path
    """Where the store lives. Created, and made readable by its owner only."""
    salvage: bool = False
    """Put a damaged store aside and go on with what can be read of it."""
    keys: tuple[str, ...]
    """Callers' API keys; each has limits of its own."""
    worker_key: str
    """What workers send as `RUNPOD_AI_API_KEY`."""
    endpoint_id: str = "stable-diffusion-v1"

    retention_s: float = 30 * 60
    """How long a finished `/run` job can be asked for."""
    sync_retention_s: float = 60
    """The same for `/runsync`."""

    execution_timeout_ms: int = 600_000
    """A job's time with a worker, unless its `policy` says otherwise."""
    ttl_ms: int = 86_400_000
    """A job's time from arrival to end, unless its `policy` says otherwise."""
    max_requeues: int = 3
    """How often a job goes back to the queue when its worker is lost; then it is FAILED."""

    worker_timeout_s: float = 30
    """A worker that was silent for so long is dead."""
    ping_interval_s: float = 10
    """What workers are told to keep between pings."""
    poll_s: float = 25
    """How long an idle worker's request is held open. The SDK gives up after 90."""
    runsync_wait_ms: int = 90_000
    """How long `/runsync` and `/status-sync` wait when the caller does not say."""
    stream_wait_s: float = 1
    """How long `/stream` waits for a chunk: both official clients poll it without a pause of their own."""

    run_limit_bytes: int = 10 * MB
    runsync_limit_bytes: int = 20 * MB
    result_limit_bytes: int = 20 * MB
    chunk_limit_bytes: int = MB
    max_queue_bytes: int = 1024 * MB
    """What the inputs of waiting jobs may take together; beyond it new ones are refused."""
    rate_limits: bool = True
    strict: bool = True
    """Refuse whatever the platform would refuse, so that nothing passes here that fails there."""
    least_execution_timeout_ms: int = 5_000
    least_ttl_ms: int = 10_000
    run_result_limit_bytes: int = 10 * MB
    """With `strict`: the least that a job's `policy` may say, and the largest result of a `/run` job."""

    simulation: Simulation = field(default_factory=Simulation)
    """The platform's bad days, for callers to try what they do about them."""

    request_timeout_s: float = 30
    """A request's head, and then its body, must have arrived within so long."""
    webhook_tries: int = 3
    webhook_pause_s: float = 10
    webhook_timeout_s: float = 10

    explain_command: tuple[str, ...] = ()
    """A program that tells what a job's input will come to, for the page; see `explainer.py`."""
    input_schema: dict[str, Any] | None = field(default=None, repr=False)
    """JSON Schema of a job's input: the playground's form is built from it."""
