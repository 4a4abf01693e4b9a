"""Serverless entry point: builds the worker and hands its coroutine to runpod."""

import runpod

from sdworker.serverless import configure

if __name__ == "__main__":
    runpod.serverless.start(configure())
