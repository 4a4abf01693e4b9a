"""Stable Diffusion 1.x as a RunPod serverless worker. Start reading at worker.py."""

__version__ = "0.1.0"
