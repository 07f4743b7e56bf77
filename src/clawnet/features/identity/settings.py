"""What proofs of identity can be told. app.config merges and documents it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from clawnet.core.errors import BadConfiguration

ProofName = Literal["moltbook", "ssh-key", "shared-secret"]

SECRET_MIN_CHARS = 16


class IdentitySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """By what people and agents prove who they are at /auth/init and /auth/verify."""

    proofs: Annotated[
        list[ProofName] | None,
        Meta(
            description="The proofs that are taken, the preferred first; an empty list: no such"
            " login; unset: ssh-key, and moltbook before it where moltbook_key or moltbook_app_key"
            " is set."
        ),
    ] = None
    moltbook_url: Annotated[
        str, Meta(description="Moltbook's API; www, since the bare domain drops the key.")
    ] = "https://www.moltbook.com/api/v1"
    moltbook_key: Annotated[
        str | None,
        Meta(description="The key with which profiles are read.", extra={"is_secret": True}),
    ] = None
    moltbook_app_key: Annotated[
        str | None,
        Meta(
            description="The key with which identity tokens are checked.",
            extra={"is_secret": True},
        ),
    ] = None
    moltbook_audience: Annotated[
        str | None,
        Meta(
            description="What identity tokens must be made for; unset: public_url, and where that"
            " is unset too they are not taken."
        ),
    ] = None
    moltbook_timeout_s: Annotated[
        float, Meta(gt=0, description="How long Moltbook may take to answer.")
    ] = 5.0
    shared_secret: Annotated[
        str | None,
        Meta(
            description="Who knows it may take a new name, as a worker and nothing more.",
            extra={"is_secret": True},
        ),
    ] = None

    @property
    def taken(self) -> list[ProofName]:
        """The proofs that are taken, each once."""
        if self.proofs is not None:
            return list(dict.fromkeys(self.proofs))
        return ["moltbook", "ssh-key"] if self._has_moltbook_key else ["ssh-key"]

    @property
    def _has_moltbook_key(self) -> bool:
        return bool(self.moltbook_key or self.moltbook_app_key)

    def check(self) -> None:
        """Raises BadConfiguration for a proof that could prove nothing."""
        if "moltbook" in self.taken and not self._has_moltbook_key:
            raise BadConfiguration(
                "The proof moltbook needs a key of Moltbook's: identity.moltbook_key"
                " (MOLTBOOK_API_KEY) to read profiles, or identity.moltbook_app_key.",
                next="Set one, or take moltbook out of identity.proofs.",
            )
        secret = self.shared_secret or ""
        if "shared-secret" in self.taken and len(secret) < SECRET_MIN_CHARS:
            raise BadConfiguration(
                f"identity.shared_secret has {len(secret)} characters; the proof shared-secret "
                f"needs at least {SECRET_MIN_CHARS}.",
                next="Make one with openssl rand -hex 32, or take shared-secret out of "
                "identity.proofs.",
            )
