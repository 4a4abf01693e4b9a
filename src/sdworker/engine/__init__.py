"""The batching engine: prompts and pictures in, pixels out. Knows nothing of jobs, buckets or runpod."""
