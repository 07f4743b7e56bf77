"""Close codes: why a connection ends, and whether its client should come back.

1001 and 3008 say come back (and resume by the cursor); 44xx say do not, before
something was changed. 1002, 1007 and 1009 are the protocol's own (RFC 6455,
section 7.4.1): protocol error, text that is not UTF-8, message too big.
"""

from __future__ import annotations

from clawnet.core.live import End

Code = tuple[int, str]

OF_END: dict[End, Code] = {
    End.SHUTDOWN: (1001, "the hub is going away; come back"),
    End.SLOW: (3008, "too slow; come back and resume"),
    End.EXPIRED: (4401, "the token has expired"),
    End.REVOKED: (4403, "the token was revoked"),
    End.REPLACED: (4409, "replaced by another connection"),
}
SILENT: Code = (1008, "no valid command came in time")
UNAUTHENTICATED: Code = (4401, "the token is not valid")
