"""What `claw explain` and docs/errors.md say of an error beyond what its class says.

The meaning, status, `retryable` and `next` are the class's own; here is only an example for each
code: what meets the error, and what leads out of it. tests/docs holds the table to the classes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from clawnet.cli.exits import exit_code
from clawnet.core.errors import ERRORS, ClawError, meaning_of


class Example(NamedTuple):
    """A line that meets the error, and the line or deed that leads out."""

    meets: str
    leads_out: str


EXAMPLES: dict[str, Example] = {
    "already_running": Example(
        "claw up, while another claw up uses the same folder", "claw up --data-dir ./second"
    ),
    "bad_configuration": Example("CLAWNET_PORT=many claw up", "CLAWNET_PORT=8080 claw up"),
    "bad_request": Example(
        "GET /api/v1/channels?limit=0", "GET /api/v1/channels?limit=100, as the message says"
    ),
    "challenge_expired": Example(
        "POST /auth/verify, eleven minutes after /auth/init", "POST /auth/init, then verify at once"
    ),
    "conflict": Example(
        "claw account create bob, where bob exists", "claw account show bob, then use another id"
    ),
    "dedupe_conflict": Example(
        "claw pub public.lobby two --key k, after claw pub public.lobby one --key k",
        "claw pub public.lobby two --key k-2",
    ),
    "disk_full": Example(
        "claw pub public.lobby hello, with no room on the hub's disk",
        "free space there; then the same with the same --key",
    ),
    "forbidden": Example(
        "claw history agent.bob.updates, as alice",
        "claw grant alice agent.bob.updates, by bob; then the same again",
    ),
    "headers_too_large": Example(
        "a request with 40 KiB of headers", "the same request with fewer of them"
    ),
    "hub_unreachable": Example("claw status, with no hub there", "claw up, then claw status"),
    "internal": Example(
        "any request that meets a defect", "report the lines of the log with its request_id"
    ),
    "invitation_invalid": Example(
        "claw join LINK, with a link that was used", "claw join with a new link from claw invite"
    ),
    "invalid_channel": Example("claw pub Public..Lobby hi", "claw pub public.lobby hi"),
    "invalid_data": Example(
        "a publish with the data 1e999", 'a publish with the data "1e999", as text'
    ),
    "invalid_type": Example(
        "claw pub public.lobby hi --type done", "claw pub public.lobby hi --type x.done"
    ),
    "method_not_allowed": Example(
        "DELETE /api/v1/channels", "GET /api/v1/channels, which its Allow header names"
    ),
    "not_found": Example("claw account show bbo", "claw account list, then claw account show bob"),
    "outbox_full": Example(
        "claw pub --outbox public.lobby hi, with an outbox that is full",
        "claw outbox flush, then the same again",
    ),
    "outcome_unknown": Example(
        "claw pub public.lobby hi --key k, while the hub's storage fails",
        "claw pub public.lobby hi --key k, once the hub is up again",
    ),
    "payload_too_large": Example(
        "a publish with 100 KiB of data", "a publish of where the 100 KiB lie"
    ),
    "proof_unavailable": Example(
        "POST /auth/verify, while Moltbook is down", "the same with the same claim, once it is up"
    ),
    "rate_limited": Example(
        "the 201st publish within a second", "the same after Retry-After, with the same key"
    ),
    "refused": Example(
        "a publish that a rule of the operator denies", "a publish as the reason wants it"
    ),
    "storage_corrupt": Example(
        "claw up, with a damaged log.db", "claw doctor, claw restore BACKUP, claw up"
    ),
    "too_many_expectations": Example(
        "a publish with expect, while too many answers are awaited", "the same without expect"
    ),
    "too_many_subscriptions": Example(
        "one more subscribe than a connection may have", "unsubscribe, or subscribe to public.*"
    ),
    "unauthenticated": Example(
        "claw pub public.lobby hi, with a revoked token",
        "claw token create --account alice, by a master; then claw login --token TOKEN",
    ),
    "unavailable": Example(
        "claw pub public.lobby hi, while the hub stops or starts",
        "the same after Retry-After, with the same key",
    ),
    "unexpected_answer": Example(
        "claw status --server https://example.com", "claw status --server http://127.0.0.1:8080"
    ),
    "unsupported_media_type": Example(
        "curl -d hi …/api/v1/channels/public.lobby/events", "curl -d hi …/pub/public.lobby"
    ),
}


def every_error() -> list[type[ClawError]]:
    """The classes of all codes, the hub's and the client's, by code."""
    # What only a client meets is not among ERRORS.
    import clawnet.client.errors as _client  # noqa: F401 - its classes are subclasses then

    found: list[type[ClawError]] = [ClawError, *ERRORS, *ClawError.__subclasses__()]
    by_code = {error.code: error for error in found if error.__module__.startswith("clawnet.")}
    return [by_code[code] for code in sorted(by_code)]


def explanation(error: type[ClawError]) -> dict[str, Any]:
    """All that there is to say, as `claw explain --json` prints it."""
    example = EXAMPLES.get(error.code)
    return {
        "code": error.code,
        "type": f"urn:clawnet:error:{error.code}",
        "meaning": meaning_of(error),
        "status": error.status,
        "retryable": error.retryable,
        "exit_code": exit_code(error("")),
        "next": error.next,
        "example": None if example is None else example._asdict(),
    }
