"""The audit chain of a data folder, looked at while no hub needs to run."""

from __future__ import annotations

from pathlib import Path

from clawnet.core.audit import Checked, check, signed_text
from clawnet.core.errors import BadConfiguration
from clawnet.features.audit.chain import files_of, has_torn_tail, known_of, lines_of
from clawnet.features.audit.keys import PUBLIC_KEY, Verifier, verifier


def verify(folder: Path, *, public_key: str | None = None) -> tuple[Checked, list[str]]:
    """Check the whole chain of a folder; and what could not be checked, in sentences.

    `public_key` is the hub's key in base64, as it was noted elsewhere; else the folder's own is
    believed. Raises BadConfiguration if there is no chain, it cannot be read, or the key is none.
    """
    try:
        return _verify(folder, public_key)
    except OSError as error:
        raise BadConfiguration(
            f"The audit chain in {folder} cannot be read: {error.strerror or error}.",
            next="Look as the user that the hub runs as, at its data folder.",
        ) from None


def _verify(folder: Path, public_key: str | None) -> tuple[Checked, list[str]]:
    files = files_of(folder)
    if not files:
        raise BadConfiguration(
            f"There is no audit chain in {folder}.",
            next="Name the hub's data folder: claw audit verify --data-dir FOLDER.",
        )
    doubts: list[str] = []
    signed = _verifier(folder, public_key, doubts)
    known = known_of(folder)
    if not known:
        doubts.append("No checkpoint is kept beside the chain: lines cut off its end do not show.")
    if signed is not None:
        good = [p for p in known if signed(signed_text(p), str(p.get("signature", "")))]
        if len(good) < len(known):
            doubts.append(
                f"{len(known) - len(good)} checkpoints beside the chain are not signed by this key."
            )
        known = good
    if has_torn_tail(files):
        doubts.append("The last line is torn, as by a crash; the hub cuts it and notes it.")
    return check(lines_of(files), signed=signed, known=known), doubts


def _verifier(folder: Path, given: str | None, doubts: list[str]) -> Verifier | None:
    text = given
    if text is None:
        doubts.append(
            "The key is the folder's own: who can write there could have put another in its place."
        )
        try:
            text = (folder / PUBLIC_KEY).read_text().strip()
        # Of a chain whose key file alone is unreadable the lines can still be checked.
        except (OSError, UnicodeError):
            doubts[-1] = "There is no public key: signatures were not checked."
            return None
    try:
        return verifier(text)
    except ValueError:
        raise BadConfiguration(
            "The public key is not an Ed25519 key in base64.",
            next="Give what GET /api/v1/audit/key answered: --key BASE64.",
        ) from None
