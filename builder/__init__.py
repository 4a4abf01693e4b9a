"""Build time only: what puts a model into the image. Nothing here is imported by the worker."""
