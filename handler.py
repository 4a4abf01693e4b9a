"""Serverless entry point: builds the worker and hands its coroutine to runpod."""

import sdworker.quick_start  # noqa: F401 - makes the imports below quick

# isort: split
import runpod

from sdworker.serverless import configure

if __name__ == "__main__":
    runpod.serverless.start(configure())
