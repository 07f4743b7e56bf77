"""Errors are public API: what a client may rely on."""

from __future__ import annotations

import re

import pytest

from clawnet.core.errors import (
    ERRORS,
    ClawError,
    DedupeConflict,
    DiskFull,
    RateLimited,
    Unavailable,
)

CODES = {error.code for error in ERRORS}


def test_codes_are_unique_and_the_table_is_whole() -> None:
    assert len(CODES) == len(ERRORS)
    assert {error.__name__ for error in ERRORS} == {
        kind.__name__
        for kind in ClawError.__subclasses__()
        if kind.__module__ == ERRORS[0].__module__
    }


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
def test_every_error_says_what_to_do_next(error: type[ClawError]) -> None:
    assert re.fullmatch(r"[a-z][a-z_]*", error.code)
    assert 400 <= error.status < 600
    assert error.__doc__
    made = error("It went wrong.")
    assert made.next.endswith(".") and made.next != ClawError.next
    body = made.as_dict()
    assert body == {
        "code": error.code,
        "message": "It went wrong.",
        "retryable": error.retryable,
        "next": made.next,
    }
    assert str(made) == "It went wrong."


def test_what_is_retryable_is_an_error_of_the_moment() -> None:
    assert {error.status for error in ERRORS if error.retryable} <= {429, 502, 503, 507}


@pytest.mark.parametrize(
    "code, status",
    [
        ("dedupe_conflict", 409),
        ("disk_full", 507),
        ("unauthenticated", 401),
        ("forbidden", 403),
        ("payload_too_large", 413),
        ("rate_limited", 429),
        ("outcome_unknown", 503),
    ],
)
def test_codes_and_statuses_that_clients_know(code: str, status: int) -> None:
    assert [error.status for error in ERRORS if error.code == code] == [status]


def test_a_hub_that_cannot_now_advises_readers_too() -> None:
    for error in (RateLimited, Unavailable, DiskFull):
        # Most requests have no dedupe key: advice that names one says which requests it is for.
        assert "again" in error.next and "a publish with the same dedupe key" in error.next


def test_facts_and_the_time_to_wait_are_members() -> None:
    body = RateLimited("Slow.", retry_after_s=0.12345, limit_per_s=5).as_dict()
    assert (body["retry_after_s"], body["limit_per_s"]) == (0.123, 5)
    assert DedupeConflict("No.", next="Do this.", index=3).as_dict()["index"] == 3
    assert DedupeConflict("No.", next="Do this.").next == "Do this."
    assert DedupeConflict.next != "Do this."
