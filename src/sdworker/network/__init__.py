"""The way out of the worker for what a job names: its pictures' URLs and its bucket.

A job is anybody's. So only public addresses are dialled (`addresses`, `dial`), whatever name they hide behind and
whatever it resolved to a moment ago; a name server that hangs holds up nobody else (`names`); and an answer is
bounded in bytes and seconds (`http`).
"""

from sdworker.network.addresses import is_public
from sdworker.network.dial import JudgedConnector, connect, dialled, tls_context
from sdworker.network.faults import Fault, NetworkError
from sdworker.network.http import Answer, exchange
from sdworker.network.names import Resolver, lookup

__all__ = [
    "Answer",
    "Fault",
    "JudgedConnector",
    "NetworkError",
    "Resolver",
    "connect",
    "dialled",
    "exchange",
    "is_public",
    "lookup",
    "tls_context",
]
