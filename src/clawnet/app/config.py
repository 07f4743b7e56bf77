"""Settings: what can be set, from where it comes, and what is wrong with it.

Flags win over the environment, the environment over the config file, and
that over the defaults, which stand in the packages' own types. A setting
`a.b_c` is `CLAWNET_A_B_C` in the environment, and `b_c` in the table `[a]`
of the file. What is not known is an error with the nearest name: a typo in a
setting must not pass for its default.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from clawnet.core.errors import BadConfiguration
from clawnet.doors.connections import ConnectionSettings
from clawnet.doors.http.settings import HttpSettings
from clawnet.doors.server import ServerSettings
from clawnet.hub.settings import (
    ChannelSettings,
    HubSettings,
    LimitSettings,
    PresenceSettings,
    RetentionSettings,
)

Secret = Annotated[str, msgspec.Meta(extra={"is_secret": True})]
EngineName = Literal["sqlite", "memory"]

PREFIX = "CLAWNET_"
ALIASES = {"PORT": "port", "DATA_DIR": "data_dir", "CLAW_DEV_MODE": "dev"}
"""Names without the prefix that other systems use; the prefixed name wins."""

_CLIENTS_OWN = frozenset({"CLAWNET_SERVER", "CLAWNET_TOKEN", "CLAWNET_TOKEN_FILE"})
_SERVICE_LINK = re.compile(r"CLAWNET_(SERVICE_(HOST|PORT)\w*|PORT_\d+_\w+)\Z")
"""What Kubernetes and old Docker put into the environment beside a service named clawnet."""

_TRUE = frozenset("1 true yes on".split())
_FALSE = frozenset("0 false no off".split())


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything a hub can be told.

    `bind` beyond loopback is never a default: it has to be given, and every
    request then needs a token. `data_dir` defaults to $XDG_DATA_HOME/clawnet.
    `dev` logs more and is refused beyond loopback. `secret_key` is the key
    with which token hashes are keyed; without it the hub makes one and keeps
    it in the data folder. Changing it ends all tokens.
    """

    bind: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 8080
    data_dir: str | None = None
    engine: EngineName = "sqlite"
    dev: bool = False
    secret_key: Secret | None = None
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    behind_proxy: tuple[str, ...] = ()
    connections: ConnectionSettings = ConnectionSettings()
    http: HttpSettings = HttpSettings()
    channels: ChannelSettings = ChannelSettings()
    limits: LimitSettings = LimitSettings()
    retention: RetentionSettings = RetentionSettings()
    presence: PresenceSettings = PresenceSettings()

    @property
    def server(self) -> ServerSettings:
        """The part that the doors' server needs."""
        return ServerSettings(
            bind=self.bind,
            port=self.port,
            allowed_hosts=self.allowed_hosts,
            allowed_origins=self.allowed_origins,
            behind_proxy=self.behind_proxy,
            connections=self.connections,
        )

    @property
    def hub(self) -> HubSettings:
        """The part that the hub needs."""
        return HubSettings(
            channels=self.channels,
            limits=self.limits,
            retention=self.retention,
            presence=self.presence,
        )


class Setting(NamedTuple):
    """One setting: its dotted name, type and default."""

    name: str
    type: Any
    default: Any

    @property
    def variable(self) -> str:
        return PREFIX + self.name.replace(".", "_").upper()

    @property
    def is_secret(self) -> bool:
        return "is_secret" in str(self.type)


def catalogue(kind: type[msgspec.Struct] = Settings, prefix: str = "") -> dict[str, Setting]:
    """All settings by name, in the order of their types."""
    found: dict[str, Setting] = {}
    for field in msgspec.structs.fields(kind):
        name = prefix + field.name
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            found |= catalogue(field.type, f"{name}.")
        else:
            found[name] = Setting(name, field.type, _default(field))
    return found


def load(
    *,
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    file: Path | None,
    is_file_required: bool = False,
) -> Settings:
    """Merge all sources. `flags` by setting name; None is "not given". Raises BadConfiguration."""
    known = catalogue()
    values: dict[str, Any] = {}
    if file is not None:
        values |= _from_file(file, known, is_required=is_file_required)
    values |= _from_environment(environment, known)
    for name, value in flags.items():
        if value is not None and value != ():
            values[name] = _converted(known[name], value, source=f"--{name.replace('_', '-')}")
    built: Settings = _built(Settings, values)
    return built


def _built(kind: type[msgspec.Struct], values: Mapping[str, Any], prefix: str = "") -> Any:
    """A struct from dotted names; what is not named keeps its default."""
    members: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        name = prefix + field.name
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            members[field.name] = _built(field.type, values, f"{name}.")
        elif name in values:
            members[field.name] = values[name]
    return kind(**members)


# --- the file ---------------------------------------------------------------


def _from_file(path: Path, known: dict[str, Setting], *, is_required: bool) -> dict[str, Any]:
    try:
        tree = tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError:
        if is_required:
            raise BadConfiguration(f"There is no config file {path}.") from None
        return {}
    except OSError as error:
        raise BadConfiguration(f"{path} cannot be read ({error.strerror}).") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadConfiguration(f"{path} is not valid TOML: {error}.") from None
    return _flattened(tree, known, path=path)


def _flattened(
    tree: Mapping[str, Any], known: dict[str, Setting], *, path: Path, prefix: str = ""
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in tree.items():
        name = prefix + key
        if name in known:
            values[name] = _converted(known[name], value, source=f"{name} in {path}")
        elif any(other.startswith(f"{name}.") for other in known) and isinstance(value, dict):
            values |= _flattened(value, known, path=path, prefix=f"{name}.")
        else:
            raise _unknown(name, list(known), f"{path} sets {ascii(name)}")
    return values


# --- the environment --------------------------------------------------------


def _from_environment(environment: Mapping[str, str], known: dict[str, Setting]) -> dict[str, Any]:
    by_variable = {setting.variable: setting for setting in known.values()}
    values: dict[str, Any] = {}
    for alias, name in ALIASES.items():
        if environment.get(alias):
            values[name] = _parsed(known[name], environment[alias], source=alias)
    for variable, text in sorted(environment.items()):
        if not variable.startswith(PREFIX) or variable in _CLIENTS_OWN or not text:
            continue
        setting = by_variable.get(variable)
        if setting is not None:
            if variable == "CLAWNET_PORT" and "://" in text:
                continue  # a service link as well
            values[setting.name] = _parsed(setting, text, source=variable)
            continue
        owner = by_variable.get(variable.removesuffix("_FILE"))
        if owner is not None and owner.is_secret:
            values.setdefault(owner.name, _secret(variable, Path(text)))
        elif not _SERVICE_LINK.match(variable):
            raise _unknown(variable, list(by_variable), f"The environment sets {variable}")
    return values


def _parsed(setting: Setting, text: str, *, source: str) -> Any:
    """A value from text: lists are separated by commas, tables are JSON."""
    value: Any = text
    if setting.type is bool or setting.type == (bool | None):
        lowered = text.strip().lower()
        if lowered in _TRUE | _FALSE:
            value = lowered in _TRUE
    elif isinstance(setting.default, tuple | list):
        value = [part.strip() for part in text.split(",") if part.strip()]
    elif isinstance(setting.default, dict):
        try:
            value = msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            raise BadConfiguration(f"{source} is not JSON: {error}.") from None
    return _converted(setting, value, source=source, strict=False)


def _secret(variable: str, path: Path) -> str:
    try:
        text = path.read_text().strip()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise BadConfiguration(f"{variable}: {path} cannot be read ({reason}).") from None
    if not text:
        raise BadConfiguration(f"{variable}: {path} is empty.")
    return text


# --- values -----------------------------------------------------------------


def _converted(setting: Setting, value: Any, *, source: str, strict: bool = True) -> Any:
    try:
        return msgspec.convert(value, setting.type, strict=strict)
    except msgspec.ValidationError as error:
        # The value itself is not shown: it may be a secret.
        raise BadConfiguration(
            f"{source} has a value that cannot be used: {error}.",
            next=f"The default of {setting.name} is {setting.default!r}.",
        ) from None


def _unknown(name: str, known: list[str], where: str) -> BadConfiguration:
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return BadConfiguration(
        f"{where}, which is no setting.{hint}", next="Correct its name or take it out."
    )


def _default(field: msgspec.structs.FieldInfo) -> Any:
    if field.default is not msgspec.NODEFAULT:
        return field.default
    factory = field.default_factory
    return factory() if factory is not msgspec.NODEFAULT and callable(factory) else None
