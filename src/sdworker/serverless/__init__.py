"""All that touches the runpod SDK.

service.py    the worker as the platform wants it: a job's answer, concurrency, fitness checks
sdk.py        the SDK's place in it; what happens when it is another SDK
job_loop.py   takes jobs, has them drawn, ends on SIGTERM
jobs.py       what the platform hands over, judged before anything is made of it
outbox.py     results: kept and offered until they are taken
progress.py   progress posts: in order, throttled, never after the result
heartbeat.py  pings, from a thread of the worker
wire.py       the platform's routes; every answer bounded
pause.py      growing pauses
"""

from sdworker.process import environment

environment.mend()  # before the SDK is imported: it ends in a traceback otherwise

from sdworker.serverless.service import configure  # noqa: E402

__all__ = ["configure"]
