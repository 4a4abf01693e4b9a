"""Serverless entry point: builds the worker and hands its coroutine to runpod."""

import sdworker.process.begin  # a log that cannot stop the worker, and variables that the SDK can read

# isort: split
import sdworker.quick_start  # noqa: F401 - makes the imports below quick

# isort: split
import runpod

from sdworker.serverless import configure

if __name__ == "__main__":
    runpod.serverless.start(configure())
