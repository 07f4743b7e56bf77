"""Every error a caller may meet: one class per meaning, with a stable code.

Doors translate these into their own shape (problem+json, a WebSocket error
frame, an exit code); nothing else in the program invents an error for a
caller. Codes are public API and are never reused.
"""

from __future__ import annotations

from typing import Any, ClassVar


class ClawError(Exception):
    """What went wrong, for a person, with what to do next.

    `code` is the stable name, `status` the HTTP status, `retryable` whether
    the same request may succeed later, `next` one sentence of advice and
    `facts` further machine-readable members.
    """

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    next: str = "Look into the hub's log; this is a defect worth reporting."

    def __init__(
        self,
        message: str,
        *,
        next: str | None = None,
        retry_after_s: float | None = None,
        **facts: Any,
    ) -> None:
        super().__init__(message)
        self.message = message
        if next is not None:
            self.next = next
        self.retry_after_s = retry_after_s
        self.facts = facts

    def as_dict(self) -> dict[str, Any]:
        """The members every door shows: code, message, retryable, next and the facts."""
        body: dict[str, Any] = {
            "code": self.code,
            "message": self.message,
            "retryable": self.retryable,
            "next": self.next,
        }
        if self.retry_after_s is not None:
            body["retry_after_s"] = round(self.retry_after_s, 3)
        body.update(self.facts)
        return body


EXPIRED = "expired"
"""The fact `reason` of an Unauthenticated, see is_expired."""
UNDECLARED = "undeclared"
"""The fact `reason` of a Forbidden: there is no such free name, for nobody."""


class BadRequest(ClawError):
    """The request cannot be understood."""

    code = "bad_request"
    status = 400
    next = "Correct the request as the message says and send it again."


class InvalidData(ClawError):
    """The event's data is not admissible JSON."""

    code = "invalid_data"
    status = 400
    next = (
        "Send valid UTF-8 JSON, at most 64 levels deep, with numbers inside the range of a double."
    )


class InvalidChannel(ClawError):
    """The channel's name or pattern is malformed."""

    code = "invalid_channel"
    status = 400
    next = "Use lower-case segments of a-z, 0-9, _ and - joined by dots, 255 characters at most."


class InvalidType(ClawError):
    """The event type is neither in the documented table nor a free x.* name."""

    code = "invalid_type"
    status = 400
    next = "Use a documented type, or a name of your own below x., such as x.my_event."


class Unauthenticated(ClawError):
    """There is no token, or it is not valid (any more)."""

    code = "unauthenticated"
    status = 401
    next = (
        "Get a token from whoever runs the hub (claw token create --account YOU), then run "
        "claw login --token TOKEN."
    )

    @property
    def is_expired(self) -> bool:
        """Whether the token was good and is over: another one will do."""
        return self.facts.get("reason") == EXPIRED


def token_expired(*, next: str | None = None) -> Unauthenticated:
    """The refusal of a token that is over."""
    return Unauthenticated("The token has expired.", next=next, reason=EXPIRED)


class Forbidden(ClawError):
    """The account may not do this."""

    code = "forbidden"
    status = 403
    next = (
        "To read, ask the channel's owner for a grant (claw grant YOU CHANNEL); to write, use a "
        "channel of your own (agent.YOU.TOPIC) or a public one."
    )


class NotFound(ClawError):
    """There is no such thing, or not for this account."""

    code = "not_found"
    status = 404
    next = "Correct the name; claw channels and claw account list show what there is."


class MethodNotAllowed(ClawError):
    """The path exists, the method does not."""

    code = "method_not_allowed"
    status = 405
    next = "Use one of the methods that the Allow header of this answer names."


class DedupeConflict(ClawError):
    """The dedupe key was used before with other content."""

    code = "dedupe_conflict"
    status = 409
    next = "Use a new key for new content; repeat a key only with exactly the same event."


class Conflict(ClawError):
    """What is to be created exists, or was changed by somebody else meanwhile."""

    code = "conflict"
    status = 409
    next = "Read what is there now (GET it, or list), then choose another name or ask anew."


class InvitationInvalid(ClawError):
    """The invitation was used, has ended or never was."""

    code = "invitation_invalid"
    status = 410
    next = "Ask whoever invited you for a new link (claw invite), and check that it is whole."


class ChallengeExpired(ClawError):
    """The challenge that a proof of identity answers is over."""

    code = "challenge_expired"
    status = 410
    next = (
        "Begin anew (POST /auth/init, claw login --user NAME); what it asks for holds 10 minutes."
    )


class PayloadTooLarge(ClawError):
    """The body or the data is larger than the limit."""

    code = "payload_too_large"
    status = 413
    next = "Send less at once; keep large things elsewhere and publish a reference."


class UnsupportedMediaType(ClawError):
    """The body has a content type that this route does not take."""

    code = "unsupported_media_type"
    status = 415
    next = "Send application/json."


class Refused(ClawError):
    """An interceptor refused the event; nothing is stored."""

    code = "refused"
    status = 422
    next = "Change the event as the reason says, or ask the hub's operator, who set this rule."


class RateLimited(ClawError):
    """The account sends faster than its limit."""

    code = "rate_limited"
    status = 429
    retryable = True
    next = "Wait as long as Retry-After says, then try again; a publish with the same dedupe key."


class HeadersTooLarge(ClawError):
    """The request head is larger than the limit."""

    code = "headers_too_large"
    status = 431
    next = "Send fewer or shorter headers; 32 KiB is the limit."


class ProofUnavailable(ClawError):
    """Who could confirm an identity cannot be asked now."""

    code = "proof_unavailable"
    status = 502
    retryable = True
    next = (
        "Try again later with the same claim; a registered SSH key logs in meanwhile, and tokens "
        "hold as they are."
    )


class Unavailable(ClawError):
    """The hub cannot take this now: it starts, stops or its queues are full."""

    code = "unavailable"
    status = 503
    retryable = True
    next = "Try again after the time in Retry-After; a publish with the same dedupe key."


class OutcomeUnknown(ClawError):
    """Storage failed at the commit: whether the event is stored is not known."""

    code = "outcome_unknown"
    status = 503
    retryable = True
    next = "Repeat the publish with the same dedupe key; that is safe whatever happened."


class DiskFull(ClawError):
    """There is no room to store the event; nothing of it is stored."""

    code = "disk_full"
    status = 507
    retryable = True
    next = (
        "Free disk space on the hub's machine, then try again, a publish with the same dedupe key; "
        "reading goes on and revoking works meanwhile."
    )


class TooManySubscriptions(ClawError):
    """The connection or account has as many subscriptions as it may have."""

    code = "too_many_subscriptions"
    status = 429
    next = "Unsubscribe from something, or use a pattern instead of many names."


class TooManyExpectations(ClawError):
    """The account waits for as many answers as it may."""

    code = "too_many_expectations"
    status = 429
    next = "Publish without expect, or wait until some of the answers came or were missed."


class AlreadyRunning(ClawError):
    """Another hub holds the lock on the data folder."""

    code = "already_running"
    status = 409
    next = "Stop the other hub, or give this one its own --data-dir."


class StorageCorrupt(ClawError):
    """The data folder cannot be used as it is."""

    code = "storage_corrupt"
    status = 500
    next = (
        "Look with claw doctor; then put a backup in its place (claw restore BACKUP) and start "
        "the hub."
    )


class OutboxFull(ClawError):
    """The outbox on this machine has no room for the event; it is not kept."""

    code = "outbox_full"
    status = 507
    retryable = True
    next = (
        "Send what waits (claw outbox flush), clear what was refused (claw outbox refused "
        "--clear), or give the outbox more room (Outbox(entries_max=…, bytes_max=…) in Python); "
        "then enqueue it again."
    )


class BadConfiguration(ClawError):
    """A setting has a value that cannot be used."""

    code = "bad_configuration"
    status = 500
    next = "Correct the setting that the message names (claw config --show lists all), then retry."


ERRORS: tuple[type[ClawError], ...] = tuple(
    sorted(ClawError.__subclasses__(), key=lambda error: error.code)
)


def meaning_of(error: type[ClawError]) -> str:
    """One sentence: the first line of the class's docstring."""
    if error is ClawError:
        return "The request failed inside the hub; this is a defect."
    return (error.__doc__ or "").strip().splitlines()[0]
