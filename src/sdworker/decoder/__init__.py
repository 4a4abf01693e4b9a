"""Hostile bytes to pixels, in a process of its own: `python -m sdworker.decoder`.

    pictures/decoders.py  ── file ──▶  __main__.py: headers.py → pixels.py  ── pixels ──▶

Decoders of picture formats are large, old and written in C, and a small file can ask them for gigabytes and
minutes. So they run where the kernel limits both, and where the worst that can happen is that one picture is not
read. Nothing here imports torch, the settings or the network, so that the process is there in a tenth of a second.
"""
