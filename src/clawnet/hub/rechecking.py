"""What changed rights do to a live session, at once: what it may not follow any more ends, and
what waits unsent and may hold something of it is taken back.

Unsent may be more than what is followed now: the answer to a read of history, or events of a
subscription that was left since. So a session notes what it was given while its client did not
take all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from clawnet.core.callers import Caller
from clawnet.core.channels import is_pattern, matches, parse
from clawnet.core.errors import ClawError
from clawnet.core.rights import Allowed, Denied, Verb, decide, refusal
from clawnet.hub.subscriptions import Subscription

if TYPE_CHECKING:
    from clawnet.hub.sessions import Session

EVERYTHING = ">"
NOTED_MAX = 256
"""So many names are noted of a client that lags; beyond, it may have been given anything."""


def note(session: Session, names: Iterable[str]) -> None:
    """Events of these channels or patterns were written that are followed no more, or never were.

    To be called when they are written: while nothing is unsent there is nothing to take back.
    """
    if session.outlet.unsent() == 0:
        session.noted = None
        return
    noted = session.noted
    if noted is None:
        noted = session.noted = set()
    noted.update(names)
    if len(noted) > NOTED_MAX:
        session.noted = {EVERYTHING}


def recheck(session: Session, caller: Caller, *, narrowed: str | None, widened: str | None) -> None:
    """Session.recheck(). Must not be interleaved."""
    caller = caller.on_the_connection_of(session.caller)
    # A grant or a lock concerns what it names; another role, or another token, anything.
    on = (narrowed or widened) if caller == session.caller else None
    if on == EVERYTHING:
        on = None
    session.caller = caller
    if session.is_closed:
        # It follows nothing any more; all that it followed was noted as it left.
        if narrowed is not None and _is_noted(session, narrowed) and _is_hidden(session, narrowed):
            session.outlet.retract()
        return
    denied: list[tuple[Subscription, str, ClawError]] = []
    is_held = narrowed is not None and _is_noted(session, narrowed)
    for subscription in session.subscriptions.values():
        if on is None:
            subscription.reclassify()
        names = _concerned(subscription, on)
        if subscription.patterns and narrowed is not None:
            is_held = is_held or _may_hold(subscription.patterns, narrowed)
        if not names:
            continue
        is_held = True
        set_floors(session, subscription, names)
        for name in names:
            decision = decide(
                caller, Verb.SUBSCRIBE, subscription.exact[name], session.hub.directory
            )
            if isinstance(decision, Denied):
                denied.append((subscription, name, refusal(decision, name)))
    if denied or (narrowed is not None and is_held and _is_hidden(session, narrowed)):
        # Before anything new is queued: what must be taken back is what was there.
        session.outlet.retract()
    for subscription, name, error in denied:
        session.drop(subscription, name, error)
    if session.on_rights is not None:
        session.on_rights(on)


def set_floors(session: Session, subscription: Subscription, names: Iterable[str]) -> None:
    """Hide what its owner may not read: the past of some channels, of others what lies before an
    offset. Floors only rise."""
    directory, floors = session.hub.directory, subscription.floors
    for name in names:
        channel = parse(name)
        decision = decide(session.caller, Verb.READ, channel, directory)
        if isinstance(decision, Denied):
            if subscription.pastless is None:
                subscription.pastless = set()
            subscription.pastless.add(name)
            decision = decide(session.caller, Verb.SUBSCRIBE, channel, directory)
        elif subscription.pastless is not None:
            subscription.pastless.discard(name)
        if isinstance(decision, Allowed) and decision.from_offset > 1:
            floors[name] = max(floors.get(name, 0), decision.from_offset - 1)


def _concerned(subscription: Subscription, on: str | None) -> Iterable[str]:
    """Of the channels that are followed by name, those that `on` covers; None: all."""
    exact = subscription.exact
    if on is None:
        return tuple(exact)
    if not is_pattern(on):
        return (on,) if on in exact else ()
    # Most names are told apart by how they begin.
    begins = on.partition("*")[0].partition(">")[0]
    return tuple(name for name in exact if name.startswith(begins) and matches(on, name))


def _is_noted(session: Session, narrowed: str) -> bool:
    return session.noted is not None and _may_hold(session.noted, narrowed)


def _may_hold(given: Iterable[str], narrowed: str) -> bool:
    """Whether events of one of these channels or patterns may be some of what was narrowed."""
    if is_pattern(narrowed):
        return any(is_pattern(name) or matches(narrowed, name) for name in given)
    return any(matches(name, narrowed) for name in given)


def _is_hidden(session: Session, narrowed: str) -> bool:
    """Whether anything of what was narrowed may not be seen now. Of a pattern some always is."""
    if is_pattern(narrowed):
        return True
    channel, directory = parse(narrowed), session.hub.directory
    for verb in (Verb.SUBSCRIBE, Verb.READ, Verb.PRESENCE):
        decision = decide(session.caller, verb, channel, directory)
        if isinstance(decision, Denied) or decision.from_offset > 1:
            return True
    return False
