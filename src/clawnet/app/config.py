"""Settings: what can be set, from where it comes, and what is wrong with it.

Flags win over the environment, the environment over the config file, and
that over the defaults, which stand in the packages' own types. A setting
`a.b_c` is `CLAWNET_A_B_C` in the environment, and `b_c` in the table `[a]`
of the file. What is not known is an error with the nearest name: a typo in a
setting must not pass for its default.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import msgspec
from msgspec import Meta

from clawnet.core.errors import BadConfiguration
from clawnet.doors.centrifugo.settings import CentrifugoSettings
from clawnet.doors.connections import ConnectionSettings
from clawnet.doors.http.claw_events.settings import ClawEventsSettings
from clawnet.doors.http.settings import HttpSettings
from clawnet.doors.server import ServerSettings
from clawnet.doors.socketio.settings import SocketioSettings
from clawnet.features import FeatureSettings
from clawnet.features.audit.settings import AuditSettings
from clawnet.features.bridge.settings import BridgeSettings
from clawnet.features.chat.settings import ChatSettings
from clawnet.features.fleet.settings import FleetSettings
from clawnet.features.identity.settings import IdentitySettings
from clawnet.features.tasks.settings import TasksSettings
from clawnet.features.warden.settings import WardenSettings
from clawnet.hub.settings import (
    ChannelSettings,
    HubSettings,
    LimitSettings,
    PresenceSettings,
    RetentionSettings,
    TokenSettings,
)

Secret = Annotated[str, Meta(extra={"is_secret": True})]
EngineName = Literal["sqlite", "memory"]

PREFIX = "CLAWNET_"
ALIASES = {
    "PORT": "port",
    "DATA_DIR": "data_dir",
    "CLAW_DEV_MODE": "dev",
    "CENTRIFUGO_TOKEN_HMAC_SECRET_KEY": "tokens.jwt_key",
    "JWT_SECRET": "tokens.jwt_key",
    "CENTRIFUGO_API_KEY": "centrifugo.api_key",
    "ADMIN_API_KEY": "centrifugo.api_key",
    "CENTRIFUGO_API_URL": "bridge.centrifugo_url",
    "MOLTBOOK_API_KEY": "identity.moltbook_key",
    "MOLTBOOK_API_BASE": "identity.moltbook_url",
    "CLAWNET_SECRET": "fleet.secret",
    "CLAWNET_TENANTS_PATH": "fleet.tenants_path",
    "CLAWNET_COMMAND_DENYLIST": "tasks.command_denylist",
    "CLAWNET_COMMAND_RISKYLIST": "tasks.command_riskylist",
}
"""Names without the prefix that other systems use; the later of two wins, and the prefixed one
over all."""

NOT_USED = ("REDIS_URL", "SUPABASE_URL", "SUPABASE_KEY")
"""Names of other systems that mean storage, of which this hub has its own."""

_CLIENTS_OWN = frozenset(f"CLAWNET_{name}" for name in ("CA_FILE", "SERVER", "TOKEN", "TOKEN_FILE"))
_SERVICE_LINK = re.compile(r"CLAWNET_(SERVICE_(HOST|PORT)\w*|PORT_\d+_\w+)\Z")
"""What Kubernetes and old Docker put into the environment beside a service named clawnet."""

_TRUE = frozenset("1 true yes on".split())
_FALSE = frozenset("0 false no off".split())


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything a hub can be told."""

    bind: Annotated[
        str,
        Meta(
            description="The address to listen on;"
            " beyond loopback (as 0.0.0.0) every request needs a token."
        ),
    ] = "127.0.0.1"
    port: Annotated[
        int, Meta(ge=0, le=65_535, description="The port to listen on; 0 takes a free one.")
    ] = 8080
    data_dir: Annotated[
        str | None,
        Meta(description="Where to keep everything; unset: $XDG_DATA_HOME/clawnet."),
    ] = None
    engine: Annotated[
        EngineName,
        Meta(description="sqlite keeps events on disk; memory forgets them at the end."),
    ] = "sqlite"
    dev: Annotated[
        bool,
        Meta(
            description="Log more, and let whoever is on this machine make an account"
            " (claw dev-register); refused where others can come in."
        ),
    ] = False
    secret_key: Annotated[
        Secret | None,
        Meta(
            description="The key with which token hashes are keyed; unset: the hub makes one"
            " and keeps it in the data folder; changing it ends all tokens."
        ),
    ] = None
    tls_cert: Annotated[
        str | None,
        Meta(description="The certificate chain (PEM) to speak TLS with; SIGHUP reads it anew."),
    ] = None
    tls_key: Annotated[
        str | None,
        Meta(description="The certificate's private key (PEM, not encrypted)."),
    ] = None
    allowed_hosts: Annotated[
        tuple[str, ...],
        Meta(description="Further host names that the hub answers to, without ports."),
    ] = ()
    allowed_origins: Annotated[
        tuple[str, ...],
        Meta(
            description="Sites (https://chat.example) whose pages may read answers,"
            " write and open WebSockets."
        ),
    ] = ()
    public_url: Annotated[
        str | None,
        Meta(
            description="The hub's URL as its clients reach it, for its documents and links;"
            " unset: what each client asks by."
        ),
    ] = None
    behind_proxy: Annotated[
        tuple[str, ...],
        Meta(
            description="Networks (CIDR) of trusted reverse proxies, whose X-Forwarded-For,"
            " -Host and -Proto are believed; any ends what is convenient on loopback."
        ),
    ] = ()
    connections: ConnectionSettings = ConnectionSettings()
    http: HttpSettings = HttpSettings()
    channels: ChannelSettings = ChannelSettings()
    limits: LimitSettings = LimitSettings()
    retention: RetentionSettings = RetentionSettings()
    presence: PresenceSettings = PresenceSettings()
    tokens: TokenSettings = TokenSettings()
    centrifugo: CentrifugoSettings = CentrifugoSettings()
    claw_events: ClawEventsSettings = ClawEventsSettings()
    identity: IdentitySettings = IdentitySettings()
    bridge: BridgeSettings = BridgeSettings()
    chat: ChatSettings = ChatSettings()
    tasks: TasksSettings = TasksSettings()
    fleet: FleetSettings = FleetSettings()
    audit: AuditSettings = AuditSettings()
    warden: WardenSettings = WardenSettings()
    socketio: SocketioSettings = SocketioSettings()

    def features(self, folder: Path) -> FeatureSettings:
        """The part that the features need, with the data folder."""
        return FeatureSettings(
            identity=self.identity,
            bridge=self.bridge,
            chat=self.chat,
            tasks=self.tasks,
            fleet=self.fleet,
            audit=self.audit,
            warden=self.warden,
            folder=folder,
            centrifugo_key=self.centrifugo.api_key,
        )

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
            is_dev=self.dev,
            channels=self.channels,
            limits=self.limits,
            retention=self.retention,
            presence=self.presence,
            tokens=self.tokens,
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
    def variables(self) -> tuple[str, ...]:
        """All names in the environment, its own first."""
        return (self.variable, *(alias for alias, name in ALIASES.items() if name == self.name))

    @property
    def is_secret(self) -> bool:
        return any((meta.extra or {}).get("is_secret") for meta in metas(self.type))

    @property
    def description(self) -> str:
        """What it is, in one sentence; the type says it."""
        return next((meta.description for meta in metas(self.type) if meta.description), "")

    @property
    def is_list(self) -> bool:
        """Whether its value is a list, so is separated by commas in the environment."""
        kinds = [plain(part) for part in get_args(plain(self.type))] + [plain(self.type)]
        return any(get_origin(kind) in (list, tuple) for kind in kinds)

    @property
    def is_table(self) -> bool:
        """Whether its value has parts of its own, and so is JSON in the environment."""
        kind = plain(self.type)
        parts = get_args(kind)
        is_list = get_origin(kind) in (list, tuple) and bool(parts)
        return get_origin(kind) is dict or (is_list and is_struct(parts[0]))


class Given(NamedTuple):
    """A value and where it comes from: `--port`, a variable, or a file."""

    value: Any
    source: str


def plain(kind: Any) -> Any:
    """A type without what is annotated to it."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return kind


def metas(kind: Any) -> list[Meta]:
    """What is annotated to a type, the outermost first, and within `… | None`."""
    found: list[Meta] = []
    if get_origin(kind) is Annotated:
        inner, *more = get_args(kind)
        found += [part for part in reversed(more) if isinstance(part, Meta)]
        return found + metas(inner)
    if isinstance(kind, UnionType) or get_origin(kind) is Union:
        for part in get_args(kind):
            found += metas(part)
    return found


def is_struct(kind: Any) -> bool:
    """Whether it is a table of settings."""
    kind = plain(kind)
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def catalogue(kind: type[msgspec.Struct] = Settings, prefix: str = "") -> dict[str, Setting]:
    """All settings by name, in the order of their types."""
    found: dict[str, Setting] = {}
    for field in msgspec.structs.fields(kind):
        name = prefix + field.name
        if is_struct(field.type):
            found |= catalogue(plain(field.type), f"{name}.")
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
    found = given(
        flags=flags, environment=environment, file=file, is_file_required=is_file_required
    )
    values = {name: one.value for name, one in found.items()}
    built: Settings = _built(Settings, values)
    return built


def given(
    *,
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    file: Path | None,
    is_file_required: bool = False,
) -> dict[str, Given]:
    """What load() merges: every setting that is not left at its default, and from where."""
    known = catalogue()
    values: dict[str, Given] = {}
    if file is not None:
        values |= _from_file(file, known, is_required=is_file_required)
    values |= _from_environment(environment, known)
    for name, value in flags.items():
        if value is not None and value != ():
            source = f"--{name.replace('_', '-')}"
            values[name] = Given(_converted(known[name], value, source=source), source)
    return values


def _built(kind: type[msgspec.Struct], values: Mapping[str, Any], prefix: str = "") -> Any:
    """A struct from dotted names; what is not named keeps its default."""
    members: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        name = prefix + field.name
        if is_struct(field.type):
            members[field.name] = _built(plain(field.type), values, f"{name}.")
        elif name in values:
            members[field.name] = values[name]
    return kind(**members)


# --- the file ---------------------------------------------------------------


def _from_file(path: Path, known: dict[str, Setting], *, is_required: bool) -> dict[str, Given]:
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
) -> dict[str, Given]:
    values: dict[str, Given] = {}
    for key, value in tree.items():
        name = prefix + key
        if name in known:
            source = f"{name} in {path}"
            values[name] = Given(_converted(known[name], value, source=source), str(path))
        elif any(other.startswith(f"{name}.") for other in known) and isinstance(value, dict):
            values |= _flattened(value, known, path=path, prefix=f"{name}.")
        else:
            raise _unknown(name, list(known), f"{path} sets {ascii(name)}")
    return values


# --- the environment --------------------------------------------------------


def _from_environment(
    environment: Mapping[str, str], known: dict[str, Setting]
) -> dict[str, Given]:
    by_variable = {setting.variable: setting for setting in known.values()}
    values: dict[str, Given] = {}
    for alias, name in ALIASES.items():
        file = environment.get(f"{alias}_FILE")
        if environment.get(alias):
            values[name] = Given(_parsed(known[name], environment[alias], source=alias), alias)
        elif file and known[name].is_secret:
            values[name] = Given(_secret(f"{alias}_FILE", Path(file)), f"{alias}_FILE")
    for variable, text in sorted(environment.items()):
        if not variable.startswith(PREFIX) or variable in _CLIENTS_OWN or not text:
            continue
        alias = variable.removesuffix("_FILE")
        if variable in ALIASES or (alias in ALIASES and known[ALIASES[alias]].is_secret):
            # Taken above: some of those names begin as the settings' own do.
            continue
        setting = by_variable.get(variable)
        if setting is not None:
            if variable == "CLAWNET_PORT" and "://" in text:
                continue  # a service link as well
            values[setting.name] = Given(_parsed(setting, text, source=variable), variable)
            continue
        owner = by_variable.get(variable.removesuffix("_FILE"))
        if owner is not None and owner.is_secret:
            if not environment.get(owner.variable):
                values[owner.name] = Given(_secret(variable, Path(text)), variable)
        elif not _SERVICE_LINK.match(variable):
            raise _unknown(variable, list(by_variable), f"The environment sets {variable}")
    return values


def _parsed(setting: Setting, text: str, *, source: str) -> Any:
    """A value from text: lists are separated by commas, tables are JSON."""
    value: Any = text
    if plain(setting.type) in (bool, bool | None):
        lowered = text.strip().lower()
        if lowered in _TRUE | _FALSE:
            value = lowered in _TRUE
    elif setting.is_table:
        try:
            value = msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            raise BadConfiguration(f"{source} is not JSON: {error}.") from None
        return _converted(setting, value, source=source)
    elif setting.is_list:
        value = [part.strip() for part in text.split(",") if part.strip()]
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
        converted = msgspec.convert(value, setting.type, strict=strict)
        if isinstance(converted, float) and not math.isfinite(converted):
            # Bounds say nothing of `nan`, which compares with nothing.
            raise msgspec.ValidationError("Expected a finite number")
        return converted
    except msgspec.ValidationError as error:
        # The value itself is not shown: it may be a secret.
        raise BadConfiguration(
            f"{source} has a value that cannot be used: {error}.",
            next=f"The default of {setting.name} is {_shown(setting.default)}.",
        ) from None


def _unknown(name: str, known: list[str], where: str) -> BadConfiguration:
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return BadConfiguration(
        f"{where}, which is no setting.{hint}", next="Correct its name or take it out."
    )


def _shown(value: Any) -> str:
    return "unset" if value is None else repr(value)


def _default(field: msgspec.structs.FieldInfo) -> Any:
    if field.default is not msgspec.NODEFAULT:
        return field.default
    factory = field.default_factory
    return factory() if factory is not msgspec.NODEFAULT and callable(factory) else None
