"""All that touches the runpod SDK.

service.py    the worker as the SDK wants it: handler, concurrency, fitness checks
progress.py   progress posts: in order, throttled, never after the result
scaler.py     the SDK's job loop, mended: no idling, and SIGTERM loses nothing
"""

from sdworker.serverless.service import configure

__all__ = ["configure"]
