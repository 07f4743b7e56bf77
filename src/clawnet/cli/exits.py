"""Exit codes: part of the CLI's contract, after sysexits(3)."""

from __future__ import annotations

from clawnet.core.errors import ClawError

DONE = 0
FAILED = 1
USAGE = 2
NOT_REACHED = 4
BAD_DATA = 65
UNREACHABLE = 69
TRY_LATER = 75
NOT_ALLOWED = 77
BAD_CONFIGURATION = 78
INTERRUPTED = 130

MEANINGS = {
    DONE: "done",
    FAILED: "failed",
    USAGE: "wrong usage",
    NOT_REACHED: "stored, but the required step was not reached in time",
    BAD_DATA: "bad data",
    UNREACHABLE: "hub unreachable",
    TRY_LATER: "try later",
    NOT_ALLOWED: "not allowed",
    BAD_CONFIGURATION: "bad configuration",
    INTERRUPTED: "interrupted",
}

_BY_CODE = {
    "already_running": BAD_CONFIGURATION,
    "bad_configuration": BAD_CONFIGURATION,
    "bad_request": BAD_DATA,
    "challenge_expired": NOT_ALLOWED,
    "disk_full": TRY_LATER,
    "forbidden": NOT_ALLOWED,
    "hub_unreachable": UNREACHABLE,
    "invalid_channel": BAD_DATA,
    "invalid_data": BAD_DATA,
    "invalid_type": BAD_DATA,
    "outbox_full": TRY_LATER,
    "invitation_invalid": NOT_ALLOWED,
    "outcome_unknown": TRY_LATER,
    "payload_too_large": BAD_DATA,
    "proof_unavailable": TRY_LATER,
    "rate_limited": TRY_LATER,
    "storage_corrupt": BAD_DATA,
    "too_many_expectations": TRY_LATER,
    "too_many_subscriptions": TRY_LATER,
    "unauthenticated": NOT_ALLOWED,
    "unavailable": TRY_LATER,
    "unexpected_answer": UNREACHABLE,
}


def exit_code(error: ClawError) -> int:
    """The exit code that stands for an error; 1 for all without a code of their own."""
    if error.facts.get("validation_errors"):
        # Refused by a schema: whatever refuses, it is the data that has to change.
        return BAD_DATA
    return _BY_CODE.get(error.code, FAILED)
