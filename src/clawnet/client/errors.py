"""A hub's refusals as the exceptions of clawnet.core.errors, and what only a client can meet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from clawnet.core.errors import (
    ERRORS,
    ClawError,
    DiskFull,
    Forbidden,
    NotFound,
    PayloadTooLarge,
    RateLimited,
    Unauthenticated,
    Unavailable,
)


class HubUnreachable(ClawError):
    """No answer came: the hub does not run, or the way to it is cut.

    After a publish `facts["dedupe_key"]` names the key under which it can be repeated safely;
    the message says if the outcome is unknown.
    """

    code = "hub_unreachable"
    status = 503
    retryable = True
    next = "Start the hub (claw up), or name another with --server or CLAWNET_SERVER."


class UnexpectedAnswer(ClawError):
    """Something answered, but not as a hub of this version does."""

    code = "unexpected_answer"
    status = 502
    next = "Check that the address is that of a clawnet hub, and compare claw version with it."


_BY_CODE: dict[str, type[ClawError]] = {kind.code: kind for kind in ERRORS}
_BY_STATUS: dict[int, type[ClawError]] = {
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    413: PayloadTooLarge,
    429: RateLimited,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
    507: DiskFull,
}
"""For answers that are no problem document, as proxies give them."""

_NOT_FACTS = frozenset(
    "type title status detail instance code retryable next retry_after_s message".split()
)


def from_answer(status: int, body: bytes, *, retry_after: str | None = None) -> ClawError:
    """The exception for an HTTP answer of status >= 300.

    The class follows the problem's `code`, else the status; an answer that
    is neither is UnexpectedAnswer.
    """
    try:
        problem = json.loads(body)
    except ValueError:
        problem = None
    wait_s = parse_retry_after(retry_after)
    if isinstance(problem, dict) and isinstance(problem.get("code"), str):
        return from_members(problem, retry_after_s=wait_s, status=status)
    kind = _BY_STATUS.get(status)
    if kind is None:
        return UnexpectedAnswer(f"The answer has status {status} and does not say why.")
    return kind(f"The answer has status {status} and does not say why.", retry_after_s=wait_s)


def from_members(
    members: Mapping[str, Any], *, retry_after_s: float | None = None, status: int | None = None
) -> ClawError:
    """The exception for the members of a problem document or of an error frame."""
    code = members.get("code")
    message = str(members.get("detail") or members.get("message") or code)
    if retry_after_s is None and isinstance(members.get("retry_after_s"), int | float):
        retry_after_s = float(members["retry_after_s"])
    advice = members.get("next")
    facts = {key: value for key, value in members.items() if key not in _NOT_FACTS}
    facts.pop("self", None)  # a fact of any other name can be passed on by it
    kind = _BY_CODE.get(str(code))
    if kind is None:
        # A newer hub: its code is kept as a fact, and the status says what kind of thing it is.
        kind = _BY_STATUS.get(status or 0, UnexpectedAnswer)
        facts["hub_code"] = code
    return kind(
        message,
        next=advice if isinstance(advice, str) else None,
        retry_after_s=retry_after_s,
        **facts,
    )


def parse_retry_after(text: str | None) -> float | None:
    """Seconds of a Retry-After header; the date form, which the hub never sends, is ignored."""
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 <= seconds < 86_400 else None
