"""Which world a shared secret opens.

How long an answer takes tells nothing: a secret is compared by its digest, and a world that is
not there costs the same comparison as one that is.
"""

from __future__ import annotations

import hmac
from hashlib import sha256
from pathlib import Path

import msgspec

from clawnet.core.channels import is_account_id
from clawnet.core.errors import BadConfiguration
from clawnet.features.fleet.settings import FleetSettings

MAIN = "main"
SECRET_MIN_CHARS = 16
SECRET_MAX_CHARS = 512
TENANTS_MAX = 500
FILE_MAX_BYTES = 1_048_576

_HOW = "Make one with openssl rand -hex 32."


class Secrets:
    """The secrets of all worlds, by digest."""

    def __init__(self, settings: FleetSettings, *, is_loopback: bool, nothing: bytes) -> None:
        """`nothing` is random, to compare with where there is no secret.

        Raises BadConfiguration for what cannot be read or can be guessed.
        """
        given: dict[str, tuple[str, str]] = {}
        if settings.secret:
            given[MAIN] = ("fleet.secret (CLAWNET_SECRET)", settings.secret)
        self._bare = _digest(settings.secret) if settings.secret else None
        if settings.tenants_path:
            for world, secret in _read(settings.tenants_path).items():
                given[world] = (f"The secret of {world} in fleet.tenants_path", secret)
        for what, secret in given.values():
            _check(what, secret, is_loopback=is_loopback)
        self._of = {world: _digest(secret) for world, (_, secret) in given.items()}
        self._nothing = nothing

    @property
    def worlds(self) -> list[str]:
        """The worlds that a secret opens."""
        return list(self._of)

    def world_of(self, shown: str) -> str | None:
        """The world that this opens, `<secret>` or `<world>:<secret>`; None if none."""
        if len(shown) > SECRET_MAX_CHARS + 65:
            return None
        world, _, rest = shown.partition(":")
        is_bare = hmac.compare_digest(_digest(shown), self._bare or self._nothing)
        is_named = hmac.compare_digest(_digest(rest), self._of.get(world, self._nothing))
        if is_bare:
            return MAIN
        return world if is_named else None


def _digest(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogatepass")).digest()


def _check(what: str, secret: str, *, is_loopback: bool) -> None:
    least = 1 if is_loopback else SECRET_MIN_CHARS
    if not least <= len(secret) <= SECRET_MAX_CHARS:
        raise BadConfiguration(
            f"{what} has {len(secret)} characters; it needs {least} to {SECRET_MAX_CHARS}"
            f"{'' if is_loopback else ' on a hub that others can reach'}.",
            next=_HOW,
        )


def _read(path: str) -> dict[str, str]:
    try:
        with Path(path).open("rb") as file:
            raw = file.read(FILE_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise BadConfiguration(
            f"fleet.tenants_path (CLAWNET_TENANTS_PATH) cannot be read: {type(error).__name__}.",
            next='Let it name a JSON file: {"world": "secret"}.',
        ) from None
    try:
        if len(raw) > FILE_MAX_BYTES:
            raise msgspec.ValidationError("it is too large")
        found = msgspec.json.decode(raw, type=dict[str, str])
        if len(found) > TENANTS_MAX:
            raise msgspec.ValidationError(f"it names more than {TENANTS_MAX} worlds")
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        # The message of a decoder names places, never what stands there.
        raise BadConfiguration(
            "fleet.tenants_path (CLAWNET_TENANTS_PATH) is no JSON object of worlds and their"
            f" secrets: {ascii(str(error)[:120])[1:-1]}.",
            next='Write {"world": "secret"}; each secret has at least 16 characters.',
        ) from None
    for world in found:
        if not is_account_id(world):
            raise BadConfiguration(
                f"{ascii(world[:80])} in fleet.tenants_path cannot be a world's id.",
                next="Use 1 to 64 of a-z, 0-9, _ and -.",
            )
    return found
