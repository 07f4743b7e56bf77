"""Query strings and path segments: decoded strictly, so that nothing is guessed or ignored."""

from __future__ import annotations

import re
from typing import NoReturn
from urllib.parse import unquote_to_bytes

from clawnet.core.errors import BadRequest

PARAMETERS_MAX = 32
TEXT_MAX_CHARS = 16_384

_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
# C0 with NUL, and DEL: nothing in this API has a use for them.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_INTEGER = re.compile(r"-?[0-9]{1,15}\Z")
_NUMBER = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?\Z")
_FLAGS = {"true": True, "1": True, "": True, "false": False, "0": False}
_SECRETS = frozenset({"token", "access_token", "api_key", "apikey", "authorization", "jwt"})


def decoded(text: str, *, what: str) -> str:
    """Percent-decode a path segment or a part of a query. Raises BadRequest."""
    if _BAD_ESCAPE.search(text):
        raise BadRequest(f"{what} has a % without two hexadecimal digits behind it.")
    try:
        plain = unquote_to_bytes(text).decode("utf-8")
    except UnicodeError:
        raise BadRequest(f"{what} is not UTF-8.") from None
    if _CONTROL.search(plain):
        raise BadRequest(f"{what} holds a control character.")
    return plain


class Query:
    """The parameters of a request: each known, and given once. Raises BadRequest otherwise."""

    __slots__ = ("_given",)

    def __init__(self, raw: bytes, known: tuple[str, ...]) -> None:
        self._given: dict[str, str] = {}
        if not raw:
            return
        try:
            text = raw.decode("ascii")
        except UnicodeError:
            raise BadRequest("The query string is not ASCII; percent-encode it.") from None
        parts = [part for part in text.split("&") if part]
        if len(parts) > PARAMETERS_MAX:
            raise BadRequest(f"The query string has more than {PARAMETERS_MAX} parameters.")
        for part in parts:
            name, _, value = part.partition("=")
            self._take(
                decoded(name.replace("+", " "), what="A parameter's name"),
                decoded(value.replace("+", " "), what=f"The parameter {_shown(name)}"),
                known,
            )

    def _take(self, name: str, value: str, known: tuple[str, ...]) -> None:
        if name not in known:
            if name.lower() in _SECRETS:
                raise BadRequest(
                    "A token does not belong in a URL, where logs and histories keep it.",
                    next="Send it as Authorization: Bearer <token>, and replace this one.",
                )
            accepted = ", ".join(known) if known else "none"
            raise BadRequest(
                f"There is no parameter {_shown(name)} here.",
                next=f"Parameters of this route: {accepted}.",
                parameter=name[:80],
            )
        if name in self._given:
            raise BadRequest(f"The parameter {name} is given twice.", parameter=name)
        if len(value) > TEXT_MAX_CHARS:
            raise BadRequest(f"The parameter {name} is too long.", parameter=name)
        self._given[name] = value

    def text(self, name: str) -> str | None:
        return self._given.get(name)

    def names(self, name: str) -> list[str]:
        """A list of names joined by commas; empty if the parameter is not given."""
        value = self._given.get(name)
        if value is None:
            return []
        names = value.split(",")
        if not all(names):
            _refuse(name, "a list of names joined by commas")
        return names

    def integer(self, name: str, default: int) -> int:
        found = self.maybe_integer(name)
        return default if found is None else found

    def maybe_integer(self, name: str) -> int | None:
        value = self._given.get(name)
        if value is None:
            return None
        if not _INTEGER.match(value):
            _refuse(name, "a whole number")
        number = int(value)
        if number < 0:
            _refuse(name, "0 or more")
        return number

    def number(self, name: str, default: float) -> float:
        value = self._given.get(name)
        if value is None:
            return default
        if not _NUMBER.match(value):
            _refuse(name, "a number of 0 or more, such as 30 or 0.5")
        return float(value)

    def flag(self, name: str) -> bool:
        """`?name`, `?name=true` and `?name=1` are yes; not given, `false` and `0` are no."""
        value = self._given.get(name)
        if value is None:
            return False
        if value not in _FLAGS:
            _refuse(name, "true or false")
        return _FLAGS[value]


def _refuse(name: str, wanted: str) -> NoReturn:
    raise BadRequest(f"The parameter {name} must be {wanted}.", parameter=name)


def _shown(name: str) -> str:
    return ascii(name if len(name) <= 80 else name[:77] + "...")
