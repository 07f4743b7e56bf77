"""Names of accounts: what may be one, and which two of them a reader takes for the same. Pure.

The rules are those of Unicode UTS #39: one name's characters come from one script (or a
combination that is written together, as Japanese with Latin), none of them is invisible, and
two names with the same skeleton look alike.

Letters and digits that look alike inside ASCII (0 and O, 1, l and I, m and rn, w and vv) count
as well: who approves what an agent may do reads its name, mostly in one glance, and `bi11ing`
beside `billing` is the oldest trick there is. Names of a series (`agent-1`, `agent-2`, …) never
meet each other by this; `agent-1` and `agent-l` do, which costs one sentence that says so.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping

from clawnet.core.errors import BadRequest

HANDLE_MAX_CHARS = 64
MARKS_IN_A_ROW_MAX = 4

RESERVED = frozenset(
    "admin administrator root superuser system sysadmin hub claw clawnet all everyone everybody"
    " anyone here global lobby townsquare moderator official support security abuse postmaster"
    " webmaster warden master owner operator anonymous nobody none null undefined me myself"
    " you centrifugo-api".split()
)
"""Nobody's id or handle, and nothing that looks like one of them: who reads `support` or `me`
must not meet an account. `admin` and `centrifugo-api` (who speaks by the server API) are the hub's
own."""

NEVER = frozenset({"all", "global", "system", "hub"})
"""Those of RESERVED that not even the hub gives: they mean something where an id is expected."""

Looks = Mapping[str, str]
"""What each character is taken for; one that is missing is taken for itself."""

ASCII_LOOKS: Looks = {
    "0": "o", "1": "l", "|": "l", "I": "l", "m": "rn", "w": "vv", "`": "'", '"': "''",
}  # fmt: skip

_ASCII = str.maketrans(dict(ASCII_LOOKS))

_CJK = (
    frozenset({"LATIN", "HAN", "HIRAGANA", "KATAKANA"}),
    frozenset({"LATIN", "HAN", "BOPOMOFO"}),
    frozenset({"LATIN", "HAN", "HANGUL"}),
)
"""UTS #39, 5.2, "highly restrictive": the scripts that are written together."""

_SHARED = frozenset({"COMMON", "INHERITED"})
_INVISIBLE = (
    (0x034F, 0x034F), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x2800, 0x2800),
    (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFFA0, 0xFFA0), (0xE0100, 0xE01EF),
)  # fmt: skip
"""Characters that Python calls printable and that nobody sees: the default-ignorable ones, and
the blank of Braille."""


_FOREIGN = re.compile(r"ext-[0-9a-f]{32}\Z")
"""Ids of foreign users' accounts (hub.foreign), which nobody is to have before them."""

_SERIES = re.compile(r"[a-z][0-9]+\Z", re.ASCII)
"""The shortest names of a series: a1, a2 and so on. Whoever has a1 to a10 must get a11 too, though
it passes for `all`."""


def fold(handle: str) -> str:
    """Handles that fold alike are the same handle."""
    return unicodedata.normalize("NFKC", handle).casefold()


def skeleton(text: str, looks: Looks) -> str:
    """What a text is taken for; two texts with the same skeleton look alike (UTS #39, 4)."""
    if text.isascii():
        # The same in one tenth of the time: a start does this for every account.
        return text.translate(_ASCII).casefold().translate(_ASCII)
    # Composed first, as the table has entries for ö and й that their parts do not have; and
    # twice, since what a capital is taken for may itself be taken for something as a small one.
    for form in ("NFC", "NFD", "NFD"):
        plain = unicodedata.normalize(form, text)
        text = "".join([looks.get(character, character) for character in plain])
        if form == "NFD":
            text = text.casefold()
    return text


def keys(name: str, looks: Looks) -> frozenset[str]:
    """What a name must not share with another account's: how it looks, as given and folded."""
    folded = fold(name)
    if folded == name:
        return frozenset({skeleton(name, looks)})
    return frozenset({skeleton(folded, looks), skeleton(name, looks)})


def check_handle(
    handle: str, *, script_of: Callable[[str], str], looks: Looks, is_hub: bool = False
) -> str:
    """Admit a handle, whether or not it is free. Raises BadRequest that says what is wrong.

    Only the hub itself (`is_hub`) gives one that is reserved.
    """
    if (
        not handle
        or len(handle) > HANDLE_MAX_CHARS
        or not handle.isprintable()
        or handle != handle.strip()
        or fold(handle) in NEVER
    ):
        raise BadRequest(
            f"{ascii(handle[:80])} cannot be a handle.",
            next=f"Use 1 to {HANDLE_MAX_CHARS} printable characters, without blanks at the ends.",
        )
    plain = unicodedata.normalize("NFKC", handle)
    if not plain.isascii():
        _check_characters(handle)
        scripts = {script_of(character) for character in plain} - _SHARED
        if len(scripts) > 1 and not any(scripts <= together for together in _CJK):
            names = " and ".join(sorted(scripts)).lower()
            raise _refused(handle, f"it mixes scripts ({names[:60]})", reason="mixed_scripts")
    if len(fold(handle)) > HANDLE_MAX_CHARS or "  " in plain:
        raise _refused(handle, "it has a run of blanks or a character that stands for many")
    if not is_hub and is_reserved(handle, looks):
        raise _refused(handle, "it is reserved, or looks like a name that is", reason="reserved")
    return handle


def is_reserved(name: str, looks: Looks) -> bool:
    """Whether a name is one of RESERVED or looks like one."""
    if _FOREIGN.match(fold(name)):
        return True
    bare = name.strip("-_. ")
    if _SERIES.match(fold(name)):
        return False
    return not _RESERVED_KEYS.isdisjoint(_slurred(key) for key in keys(bare, looks))


def _slurred(key: str) -> str:
    # An i between letters passes for an l or 1 (adm1n), and with reserved names nothing is lost
    # by taking more for alike than between two accounts.
    return key.replace("i", "l")


def _check_characters(handle: str) -> None:
    plain = unicodedata.normalize("NFKD", handle)
    marks = 0
    for index, character in enumerate(plain):
        code = ord(character)
        if any(first <= code <= last for first, last in _INVISIBLE):
            raise _refused(handle, "it holds a character that nobody sees", reason="invisible")
        if unicodedata.category(character)[0] != "M":
            marks = 0
            continue
        marks += 1
        if index == 0 or marks > MARKS_IN_A_ROW_MAX or character == plain[index - 1]:
            raise _refused(handle, "its marks belong to no letter or pile up", reason="marks")


def _refused(handle: str, why: str, *, reason: str = "characters") -> BadRequest:
    return BadRequest(
        f"{ascii(handle[:80])} cannot be a handle: {why}.",
        next="Use letters of one script, digits, - and _, and no name that the hub reserves.",
        reason=reason,
    )


_RESERVED_KEYS = frozenset(_slurred(skeleton(name, ASCII_LOOKS)) for name in RESERVED)
