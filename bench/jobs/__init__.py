"""Measures of whole jobs through the worker alone, and of their parts: time, files, memory."""
