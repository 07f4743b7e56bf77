"""Centrifugo's codes: why a connection or subscription ends, and why a command failed.

Clients come back by themselves after 3000 to 3499 and stay away after 3500 to 3999; they
subscribe again after 2500 and above. Read in centrifuge's disconnect.go, unsubscribe.go, errors.go.
"""

from __future__ import annotations

from clawnet.core.errors import (
    BadRequest,
    ClawError,
    DiskFull,
    Forbidden,
    InvalidChannel,
    InvalidData,
    OutcomeUnknown,
    PayloadTooLarge,
    RateLimited,
    Refused,
    TooManySubscriptions,
    Unauthenticated,
    Unavailable,
)
from clawnet.core.live import End
from clawnet.doors.centrifugo.wire import Error

Code = tuple[int, str]

# Ends of a connection.
SHUTDOWN: Code = (3001, "shutdown")
SERVER_ERROR: Code = (3004, "internal server error")
EXPIRED: Code = (3005, "connection expired")
SUB_EXPIRED: Code = (3006, "subscription expired")
SLOW: Code = (3008, "slow")
INSUFFICIENT_STATE: Code = (3010, "insufficient state")
FORCE_RECONNECT: Code = (3011, "force reconnect")
NO_PONG: Code = (3012, "no pong")
TOO_MANY_REQUESTS: Code = (3013, "too many requests")
INVALID_TOKEN: Code = (3500, "invalid token")
BAD_REQUEST: Code = (3501, "bad request")
STALE: Code = (3502, "stale")
FORCE_DISCONNECT: Code = (3503, "force disconnect")
CONNECTION_LIMIT: Code = (3504, "connection limit")
CHANNEL_LIMIT: Code = (3505, "channel limit")
PERMISSION_DENIED: Code = (3507, "permission denied")
NOT_AVAILABLE: Code = (3508, "not available")

OF_END: dict[End, Code] = {
    End.SHUTDOWN: SHUTDOWN,
    End.SLOW: SLOW,
    End.EXPIRED: EXPIRED,
    End.REVOKED: INVALID_TOKEN,
    End.REPLACED: FORCE_DISCONNECT,
}

# Ends of a subscription.
UNSUBSCRIBED: Code = (2000, "server unsubscribe")
SUB_INSUFFICIENT_STATE: Code = (2500, "insufficient state")
SUB_TOKEN_EXPIRED: Code = (2501, "subscription expired")

# Failures of a command.
INTERNAL = Error(code=100, message="internal server error", temporary=True)
UNKNOWN_CHANNEL = Error(code=102, message="unknown channel")
DENIED = Error(code=103, message="permission denied")
NO_METHOD = Error(code=104, message="method not found")
ALREADY_SUBSCRIBED = Error(code=105, message="already subscribed")
LIMIT_EXCEEDED = Error(code=106, message="limit exceeded")
BAD_COMMAND = Error(code=107, message="bad request")
UNAVAILABLE = Error(code=108, message="not available")
TOKEN_EXPIRED = Error(code=109, message="token expired")
TOO_MANY = Error(code=111, message="too many requests", temporary=True)
UNRECOVERABLE = Error(code=112, message="unrecoverable position")
CONFLICT = Error(code=113, message="conflict")
"""Of the server API only."""

MESSAGE_MAX_CHARS = 500


class Failed(Exception):
    """A command is answered with an error."""

    def __init__(self, error: Error) -> None:
        super().__init__(error.message)
        self.error = error


class Ended(Exception):
    """A command ends its connection."""

    def __init__(self, code: Code) -> None:
        super().__init__(code[1])
        self.code = code


def with_reason(error: Error, reason: str) -> Error:
    """An error of the protocol whose message says why, too."""
    message = f"{error.message}: {reason}"[:MESSAGE_MAX_CHARS]
    return Error(code=error.code, message=message, temporary=error.temporary)


def error_of(error: ClawError) -> Error:
    """What the protocol calls an error of the hub."""
    return with_reason(_kind_of(error), error.message)


def _kind_of(error: ClawError) -> Error:
    match error:
        case Unauthenticated(is_expired=True):
            # In its grace a connection stands, but what is done with its token needs a new one.
            return TOKEN_EXPIRED
        case Forbidden() | Unauthenticated() | Refused():
            return DENIED
        case TooManySubscriptions() | PayloadTooLarge():
            return LIMIT_EXCEEDED
        case RateLimited():
            return TOO_MANY
        case InvalidChannel() | InvalidData() | BadRequest():
            return BAD_COMMAND
        case Unavailable() | DiskFull() | OutcomeUnknown():
            return INTERNAL
        case _:
            return BAD_COMMAND if error.status < 500 else INTERNAL
