"""Why an exchange with another host came to nothing."""

from enum import StrEnum

__all__ = ["Fault", "NetworkError"]


class Fault(StrEnum):
    """What went wrong, in the order in which it can."""

    UNRESOLVED = "the name does not resolve"
    NOT_PUBLIC = "no address of the name is public"
    UNREACHABLE = "nobody takes the connection"
    CONNECT_TIMEOUT = "the connection was not taken in time"
    CERTIFICATE = "the certificate is not accepted"
    NO_TLS = "the other side does not speak TLS"
    TLS_TIMEOUT = "the TLS handshake did not end in time"
    UPLOAD_STALLED = "the other side stopped taking the body"
    ANSWER_TIMEOUT = "the answer did not come in time"
    BROKE_OFF = "the connection ended before the answer"
    WANTS_TLS = "the other side speaks TLS, and was not asked to"
    NOT_HTTP = "the answer is not HTTP, or its head does not end"


class NetworkError(Exception):
    """An exchange that came to nothing; the message names no address."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.value)
        self.fault = fault
