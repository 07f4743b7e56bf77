"""What a proof of identity is to the feature that uses it. Each kind is one class.

A proof looks at what was shown and says whose name that is. It makes no account, stores nothing
and gives no token: that is clawnet.features.identity.feature's, which asks a proof it knows only
by this protocol.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol

from clawnet.core.calls.accounts import Proof as ProofKind
from clawnet.core.calls.identity import BeginLogin, FinishLogin, KeyChallenge, PostChallenge

WORLD = "main"
"""Who logs in by a proof does so in the main world."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """`name` as it is spelled where it was proven.

    `opens`: the kind of accounts that this opens and makes; None: any account of that name, and
    it makes none (the account itself said by what it is to be opened).
    `is_repeatable`: opens an account that it made before.
    """

    name: str
    opens: ProofKind | None
    is_repeatable: bool = True


class Proof(Protocol):
    """One way of proving who one is.

    P1 begins    `takes_begin` says whether a challenge of this kind was asked for, `begin` gives
                 it. A kind without challenges takes none.
    P2 finishes  `takes_finish` says whether what was shown is for this kind; `finish` raises a
                 ClawError or says what is proven, and what it says was shown now, by this client.
    P3 once      a challenge that led to Proven is never good again.
    """

    opens: ProofKind | None
    """As Proven.opens, known before anything is proven."""

    def takes_begin(self, asked: BeginLogin) -> bool: ...
    async def begin(self, asked: BeginLogin) -> PostChallenge | KeyChallenge: ...
    def takes_finish(self, shown: FinishLogin) -> bool: ...
    def finish(self, shown: FinishLogin) -> Awaitable[Proven]: ...
    async def close(self) -> None: ...
