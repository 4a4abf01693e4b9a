"""Prompts: read (`prompt.py`, pure), tokenised (`tokens.py`) and encoded (`clip.py`, `encoder.py`)."""
