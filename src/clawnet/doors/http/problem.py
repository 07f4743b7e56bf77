"""Errors as this door answers them: doors.problem's body with the headers HTTP adds."""

from __future__ import annotations

import logging
import math
import secrets

from clawnet.core.errors import ClawError, RateLimited
from clawnet.doors import problem
from clawnet.doors.http.answers import NO_SNIFF, Header, Plain

DISK_FULL_RETRY_S = 30
"""What a full disk is given to be emptied by a person."""

_log = logging.getLogger(__name__)


def problem_answer(error: ClawError, *, headers: tuple[Header, ...] = ()) -> Plain:
    """An error as application/problem+json (RFC 9457)."""
    shown = [*problem.headers_of(error), NO_SNIFF, *headers]
    if error.status == 507:
        wait_s = DISK_FULL_RETRY_S if error.retry_after_s is None else error.retry_after_s
        shown.append((b"retry-after", b"%d" % max(1, math.ceil(wait_s))))
    if isinstance(error, RateLimited):
        shown += _rate_headers(error)
    if error.status == 413:
        # The rest of the body was not read, so nothing can follow on this connection.
        shown.append((b"connection", b"close"))
    return Plain(error.status, problem.body_of(error), shown)


def unexpected(error: BaseException, *, method: str, path: str) -> ClawError:
    """What a client is told of a defect: an id that leads to the log, and no details."""
    request_id = secrets.token_hex(8)
    _log.error("request %s failed: %s %s", request_id, method, ascii(path[:200]), exc_info=error)
    return ClawError("The request failed inside the hub.", request_id=request_id)


def _rate_headers(error: RateLimited) -> list[Header]:
    """draft-ietf-httpapi-ratelimit-headers: the policy, and what is left of it."""
    limit = error.facts.get("limit_per_s")
    if not isinstance(limit, int | float):
        return []
    wait_s = max(1, math.ceil(error.retry_after_s or 1.0))
    # A quota is whole: what is less than one in a second is one in so many.
    quota, window_s = (limit, 1) if limit >= 1 or limit <= 0 else (1, round(1 / limit))
    return [
        (b"ratelimit-policy", b'"account";q=%d;w=%d' % (max(1, quota), window_s)),
        (b"ratelimit", b'"account";r=0;t=%d' % wait_s),
    ]
