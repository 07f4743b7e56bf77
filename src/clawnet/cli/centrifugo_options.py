"""What Centrifugo's configuration (v5 and v6) comes to here: every key, or the reason why not.

Pure: a tree of options in, settings of this hub and one line for each key out. The names of v5
are turned into those of v6 first, so that a rule stands here once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from clawnet.cli.centrifugo_names import (
    CHANNEL_OPTIONS,
    V5,
    V5_PREFIXES,
    V5_SWITCHES,
    V6_TABLES,
)
from clawnet.cli.centrifugo_reasons import REASONS
from clawnet.core.channels import RESERVED_ROOTS

ANONYMOUS = "centrifugo.anonymous"
KEY_MIN_BYTES = 32
_NAMESPACE = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(?::[0-9]{1,5})?\Z")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ns|us|µs|ms|s|m|h)")
_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3_600.0}


class Line(NamedTuple):
    """What one key became (the name of a setting here), or None and why it was left out."""

    key: str
    became: str | None
    why: str = ""


class Moved(NamedTuple):
    """`settings` by their dotted names, as a config.toml of this hub has them; `namespaces` by
    name; `secrets` are those of the settings' names that must not be shown."""

    version: int
    settings: dict[str, Any]
    namespaces: dict[str, dict[str, Any]]
    lines: list[Line]

    @property
    def secrets(self) -> frozenset[str]:
        return frozenset({"tokens.jwt_key", "centrifugo.api_key"} & self.settings.keys())


class Unfit(ValueError):
    """A value that cannot be taken over, with the reason."""


def moved(tree: Mapping[str, Any]) -> Moved:
    """What a configuration comes to. Never raises: what is odd is left out with a reason."""
    is_v6 = any(isinstance(tree.get(name), dict) for name in V6_TABLES)
    found = Moved(6 if is_v6 else 5, {}, {}, [])
    default: dict[str, Any] = {}
    for key, path, value in _options(tree, is_v6=is_v6):
        if path == "channel.namespaces":
            _namespaces(found, key, value)
        elif path.startswith("channel.without_namespace."):
            default[key] = (path.removeprefix("channel.without_namespace."), value)
        else:
            found.lines.append(_option(found, key, path, value))
    if ANONYMOUS not in found.settings:
        found.settings[ANONYMOUS] = False
        why = "as Centrifugo does without the option"
        found.lines.append(Line("allow_anonymous_connect_without_token", ANONYMOUS, why))
    if default:
        place = "channel.without_namespace" if is_v6 else "(no namespace)"
        _namespace(found, "", default, key=place)
    return found


def _options(tree: Mapping[str, Any], *, is_v6: bool) -> list[tuple[str, str, Any]]:
    """Every key as it stands in the file, its name in v6, and its value."""
    if is_v6:
        return [(path, path, value) for path, value in _leaves(tree, "")]
    return [(str(key), _path_of_v5(str(key)), value) for key, value in tree.items()]


def _leaves(tree: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    # Not by recursion: a file may be nested as deep as its parser takes.
    waiting = [(f"{prefix}{key}", value) for key, value in reversed(list(tree.items()))]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, dict) and value:
            waiting += [(f"{path}.{key}", part) for key, part in reversed(value.items())]
        else:
            found.append((path, value))
    return found


def _path_of_v5(key: str) -> str:
    if key in V5:
        return V5[key]
    if key in CHANNEL_OPTIONS:
        return f"channel.without_namespace.{key}"
    if key in V5_SWITCHES:
        return f"{key}.enabled"
    for prefix, path in V5_PREFIXES.items():
        if key.startswith(prefix):
            return path + key.removeprefix(prefix)
    return key


# --- values -------------------------------------------------------------------------------------


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise Unfit("it is neither true nor false")


def _int(value: Any, *, least: int = 1) -> int:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,12}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not -1 <= value <= 10**12:
        raise Unfit("it is no number")
    if value < least:
        raise Unfit(f"{value} means no limit or off, which cannot be said here")
    return value


def _port(value: Any) -> int:
    found = _int(value)
    if found > 65_535:
        raise Unfit("it is no port")
    return found


def _seconds(value: Any) -> float:
    """A duration of Go, or a number of seconds."""
    if isinstance(value, str):
        parts = _DURATION.findall(value)
        if not parts or "".join(f"{number}{unit}" for number, unit in parts) != value:
            if not re.fullmatch(r"[0-9]{1,12}", value):
                raise Unfit("it is no duration")
            return float(value)
        return float(sum(float(number) * _UNITS_S[unit] for number, unit in parts))
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e12:
        raise Unfit("it is no duration")
    return float(value)


def _some_seconds(value: Any) -> float:
    found = _seconds(value)
    if not found:
        raise Unfit("0 means off, which cannot be said here")
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise Unfit("it is empty" if value == "" else "it is no text")
    return value


def _namespace_name(value: Any) -> str:
    if value != "" and not (isinstance(value, str) and _NAMESPACE.match(value)):
        raise Unfit("it is no name of a namespace here")
    return str(value)


def _jwt_key(value: Any) -> str:
    key = _text(value)
    size = len(key.encode("utf-8", "surrogatepass"))
    if size < KEY_MIN_BYTES:
        raise Unfit(
            f"it has {size} bytes and HS256 needs {KEY_MIN_BYTES}: make a new one with"
            " openssl rand -hex 32, for your backend too"
        )
    return key


def _origins(value: Any) -> list[str]:
    given = value.split() if isinstance(value, str) else value
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise Unfit("it is no list of origins")
    unfit = [one for one in given if not _ORIGIN.match(one)]
    if unfit:
        raise Unfit(f"patterns like {ascii(unfit[0][:60])} are not known here; name each origin")
    if not given:
        raise Unfit("it is empty")
    return list(given)


def _file(value: Any) -> str:
    text = _text(value)
    if "-----BEGIN" in text or "\n" in text:
        raise Unfit("it is the PEM text itself; write it into a file and name that")
    return text


TAKEN: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "client.token.hmac_secret_key": ("tokens.jwt_key", _jwt_key),
    "client.token.audience": ("centrifugo.token_audience", _text),
    "client.token.issuer": ("centrifugo.token_issuer", _text),
    "client.insecure": ("centrifugo.insecure", _bool),
    "client.allow_anonymous_connect_without_token": (ANONYMOUS, _bool),
    "client.allowed_origins": ("allowed_origins", _origins),
    "client.subscribe_to_user_personal_channel.enabled": ("centrifugo.personal_channels", _bool),
    "client.subscribe_to_user_personal_channel.personal_channel_namespace": (
        "centrifugo.personal_namespace",
        _namespace_name,
    ),
    "client.ping_interval": ("centrifugo.ping_s", _some_seconds),
    "client.pong_timeout": ("centrifugo.pong_timeout_s", _some_seconds),
    "client.channel_limit": ("limits.subscriptions_per_session_max", _int),
    "client.recovery_max_publication_limit": ("centrifugo.recovery_publications_max", _int),
    "client.user_connection_limit": ("limits.sessions_per_account_max", _int),
    "client.connection_limit": ("connections.connections_max", _int),
    "http_api.key": ("centrifugo.api_key", _text),
    "http_server.address": ("bind", _text),
    "http_server.port": ("port", _port),
    "http_server.tls.cert_pem": ("tls_cert", _file),
    "http_server.tls.key_pem": ("tls_key", _file),
}
"""Options that are a setting here: its name, and how the value is read."""

FIXED = {
    "channel.private_prefix": ("$",),
    "channel.namespace_boundary": (":", "."),
    "channel.user_boundary": ("#",),
    "channel.user_separator": (",",),
    "channel.max_length": (255,),
    "client.token.user_id_claim": ("sub", ""),
}
"""Options whose value here cannot be chosen."""


def _option(found: Moved, key: str, path: str, value: Any) -> Line:
    if path in TAKEN:
        name, read = TAKEN[path]
        try:
            taken = read(value)
        except Unfit as error:
            return Line(key, None, str(error))
        if found.settings.setdefault(name, taken) != taken:
            return Line(key, None, f"another key gave {name} already")
        return Line(key, name)
    if path in FIXED:
        if value in FIXED[path]:
            return Line(key, None, "so it is here, always")
        return Line(key, None, f"here it is {FIXED[path][0]!r}, always: channels must be renamed")
    for prefix, why in REASONS.items():
        if path == prefix or (prefix.endswith(".") and path.startswith(prefix)):
            return Line(key, None, why)
    return Line(key, None, "not known to this command")


# --- namespaces ---------------------------------------------------------------------------------


def _namespaces(found: Moved, key: str, value: Any) -> None:
    if not isinstance(value, list):
        found.lines.append(Line(key, None, "it is no list"))
        return
    for number, one in enumerate(value):
        name = one.get("name") if isinstance(one, dict) else None
        place = f"{key}[{number}]"
        if not isinstance(name, str):
            found.lines.append(Line(place, None, "it has no name"))
        elif not _NAMESPACE.match(name):
            why = "its name may hold only letters, digits, - and _ here, at most 64"
            found.lines.append(Line(f"{place} {ascii(name[:80])}", None, why))
        elif name in found.namespaces:
            found.lines.append(Line(f"{place} {name}", None, "there are two of that name"))
        else:
            options = [(option, part) for option, part in one.items() if option != "name"]
            given = {f"{key}.{name}.{option}": (str(option), part) for option, part in options}
            _namespace(found, name, given, key=f"{key}.{name}.name")


def _namespace(found: Moved, name: str, given: dict[str, tuple[str, Any]], *, key: str) -> None:
    """Its rule, from options that together say it.

    `given`: by key, the option and its value; `key` is where the namespace itself stands.
    """
    values: dict[str, Any] = {}
    bad: dict[str, str] = {}
    for option, value in given.values():
        read = _READ.get(option)
        if read is not None:
            try:
                values[option] = read(value)
            except Unfit as error:
                bad[option] = str(error)
    rule = _rule(values)
    found.namespaces[name] = rule
    shown = "channels.namespaces." + (name or '""')
    unsaid = dict(rule)
    lines = []
    for one, (option, value) in given.items():
        if option in bad:
            lines.append(Line(one, None, bad[option]))
        elif option in _BECAME:
            member = _BECAME[option] if _BECAME[option] in rule else "history_size"
            unsaid.pop(member, None)
            became = f"{shown}.{_member(member, rule)}"
            lines.append(Line(one, became, _more(option, values)))
        else:
            why = _LEFT_OUT.get(option, "not known to this command")
            if value in (False, None, "", [], 0):
                why = f"off: {why}"
            lines.append(Line(one, None, why))
    notes = [f"for names with a colon only ({name}:x): {name}.x is the hub's own"]
    notes = notes if name in RESERVED_ROOTS else []
    if unsaid:
        members = ", ".join(_member(member, unsaid) for member in unsaid)
        notes.append(f"as Centrifugo does without an option: {members}")
    found.lines.append(Line(key, shown, "; ".join(notes)))
    found.lines.extend(lines)


def _member(name: str, rule: Mapping[str, Any]) -> str:
    """As it stands in the file that is made."""
    return f"{name} = {json.dumps(rule[name])}"


def _rule(values: Mapping[str, Any]) -> dict[str, Any]:
    """Centrifugo denies what no option allows; so does this, member by member."""

    def is_on(option: str) -> bool:
        return bool(values.get(option))

    def admits(what: str) -> str:
        if is_on(f"allow_{what}_for_client"):
            return "anyone" if is_on(f"allow_{what}_for_anonymous") else "accounts"
        return "subscribers" if is_on(f"allow_{what}_for_subscriber") else "nobody"

    publish, read = admits("publish"), admits("subscribe")
    # Both are needed there for a channel to have a past.
    has_history = bool(values.get("history_size")) and bool(values.get("history_ttl"))
    rule: dict[str, Any] = {
        "publish": "accounts" if publish == "anyone" else publish.replace("nobody", "granted"),
        "read": read.replace("nobody", "granted"),
        "history": admits("history") if has_history else "nobody",
        "presence": admits("presence") if is_on("presence") else "nobody",
        "user_limited": is_on("allow_user_limited_channels"),
        "history_size": values["history_size"] if has_history else 0,
        "join_leave": is_on("join_leave"),
        "force_push_join_leave": is_on("force_push_join_leave"),
        "force_recovery": has_history and (is_on("force_recovery") or is_on("allow_recovery")),
    }
    if has_history:
        rule["history_ttl_s"] = values["history_ttl"]
    rule["recovery_mode"] = values.get("force_recovery_mode") or "stream"
    rule["allowed_delta_types"] = values.get("allowed_delta_types", [])
    return rule


def _mode(value: Any) -> str:
    if value not in ("", "stream", "cache"):
        raise Unfit("it is neither stream nor cache")
    return str(value)


def _deltas(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise Unfit("it is no list")
    return ["fossil"] if "fossil" in value else []


_SWITCHES = frozenset(
    option
    for option in CHANNEL_OPTIONS
    if option.startswith(("allow_", "force_")) or option in ("presence", "join_leave")
) - {"allowed_delta_types", "force_recovery_mode", "force_positioning", "allow_positioning"}

_READ: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(_SWITCHES, _bool),
    "history_size": lambda value: _int(value, least=0),
    "history_ttl": _seconds,
    "force_recovery_mode": _mode,
    "allowed_delta_types": _deltas,
}

_BECAME = {
    **{f"allow_{what}_for_{who}": ("read" if what == "subscribe" else what)
       for what in ("subscribe", "publish", "history", "presence")
       for who in ("client", "subscriber", "anonymous")
       if f"allow_{what}_for_{who}" in CHANNEL_OPTIONS},
    "presence": "presence",
    "join_leave": "join_leave",
    "force_push_join_leave": "force_push_join_leave",
    "history_size": "history_size",
    "history_ttl": "history_ttl_s",
    "force_recovery": "force_recovery",
    "allow_recovery": "force_recovery",
    "force_recovery_mode": "recovery_mode",
    "allow_user_limited_channels": "user_limited",
    "allowed_delta_types": "allowed_delta_types",
}  # fmt: skip

_LEFT_OUT = {
    "history_meta_ttl": "offsets are never forgotten here",
    "force_positioning": "positions are always exact here",
    "allow_positioning": "positions are always exact here",
    "delta_publish": "every subscriber that asks for deltas is given them",
    "channel_regex": "names are not checked here; ask in your backend",
    **dict.fromkeys(
        "subscribe_proxy_enabled publish_proxy_enabled sub_refresh_proxy_enabled"
        " subscribe_stream_proxy_enabled subscribe_proxy_name publish_proxy_name"
        " sub_refresh_proxy_name subscribe_stream_proxy_name subscribe_stream_bidirectional"
        " proxy_subscribe proxy_publish proxy_sub_refresh proxy_subscribe_stream".split(),
        "this hub asks no backend: open channels by options, grants or subscription tokens",
    ),
    **dict.fromkeys(
        "subscribe_cel publish_cel presence_cel history_cel keep_latest_publication"
        " shared_position_sync state_events cache_empty_proxy_name broker_name"
        " presence_manager_name".split(),
        "an option of Centrifugo PRO or of its brokers",
    ),
}


def _more(option: str, values: Mapping[str, Any]) -> str:
    """What is different all the same."""
    if not values.get(option):
        return ""
    if option == "allow_publish_for_anonymous":
        return "who publishes needs a token here"
    what, _, who = option.removeprefix("allow_").partition("_for_")
    needs_past = what in ("history", "history_size", "history_ttl", "force_recovery", "recovery")
    if needs_past and not (values.get("history_size") and values.get("history_ttl")):
        return "a past needs history_size and history_ttl"
    if what == "presence" and who and not values.get("presence"):
        return "presence is off"
    if who == "anonymous" and not values.get(f"allow_{what}_for_client"):
        return f"without allow_{what}_for_client it opens nothing, as in Centrifugo"
    is_open = values.get("allow_subscribe_for_client") and values.get(
        "allow_subscribe_for_anonymous"
    )
    is_wider = who == "subscriber" and what in ("history", "presence") and is_open
    if is_wider and not values.get(f"allow_{what}_for_anonymous"):
        return "anonymous subscribers may too"
    if option == "allow_recovery" and not values.get("force_recovery"):
        return "every subscriber is given it"
    return ""
