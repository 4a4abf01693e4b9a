"""The platform's job API on one's own machine, both sides of the queue.

Callers use it as they use RunPod (`client_api`), and workers made with the unmodified SDK take their
jobs from it (`worker_api`). Start it with `python -m local_endpoint`. Read `jobs.py` first: what can
happen to a job; then `core.py`: who makes it happen.
"""
