"""What the worker's process needs before anything heavy is imported; nothing but the standard library.

environment.py   the SDK's variables, mended where the SDK would end in a traceback
log_stream.py    a log that cannot stop the worker, whoever reads it or no longer does
redaction.py     what must not stand in a log
begin.py         `import sdworker.process.begin` does all of it, for a process that only serves
"""
