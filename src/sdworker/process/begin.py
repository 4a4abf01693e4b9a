"""`import sdworker.process.begin`, before anything else, in a process that only serves, as `handler.py` does."""

from sdworker.process import environment, log_stream

log_stream.install()
environment.mend()
