"""The settings' own words: a complete config.toml, and the page docs/configuration.md.

Both are made from the types in app.config and from nothing else, so that what
is written cannot differ from what is true:

    python -m clawnet.app.reference toml      deploy/config.toml
    python -m clawnet.app.reference markdown  docs/configuration.md
"""

from __future__ import annotations

import inspect
import json
import sys
import textwrap
from collections.abc import Iterator
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import msgspec

from clawnet.app.config import NOT_USED, Setting, Settings, catalogue, is_struct, metas, plain

WIDTH = 98

INTRODUCTION = """\
# Configuration

A hub runs without any. What is set is looked for in this order, and the first that has it wins:

1. flags of `claw up` (`claw up --help`),
2. the environment: a setting `a.b_c` is `CLAWNET_A_B_C`,
3. `config.toml` in `$XDG_CONFIG_HOME/clawnet` (`~/.config/clawnet`), or the file that
   `claw --config PATH` names: `a.b_c` is `b_c` in the table `[a]`,
4. the defaults below.

An unknown name is an error with the nearest known one: a typo never passes for a default. What is
wrong is said in one sentence before the hub listens, with exit code 78.

    claw config --show             what holds here, and where each value comes from
    claw config --show --defaults  a complete config.toml with every setting, to begin from
    claw config --check FILE       whether a hub would start with it

In the environment, lists are separated by commas and tables are JSON; an empty variable is as good
as none. A secret may lie in a file: `CLAWNET_SECRET_KEY_FILE=/run/secrets/key`; secrets are never
shown. The settings are read at the start; SIGHUP reads a renewed certificate and nothing else.

The command line as a client has settings of its own: `CLAWNET_SERVER`, `CLAWNET_TOKEN` or
`CLAWNET_TOKEN_FILE`, and `CLAWNET_CA_FILE` for a hub whose certificate a private CA has signed
(`SSL_CERT_FILE` does as well); `claw config --server URL` and `claw login` keep the first two.

This page is made from the types by `make docs`, as `deploy/config.toml` is; a test compares them.
"""

PROXIES = """
## Behind a proxy

With `behind_proxy` the hub believes `X-Forwarded-For`, `X-Forwarded-Host` and `X-Forwarded-Proto`,
but only from peers in those networks: the client is the last address in `X-Forwarded-For` that is
no trusted proxy, host and scheme are the nearest proxy's word. From anybody else, and in the
header `Forwarded`, they are only a sign that the request came from afar. The proxy has to set all
three itself, and not pass on what its client sent; nginx does so with

    proxy_set_header X-Forwarded-For   $proxy_add_x_forwarded_for;
    proxy_set_header X-Forwarded-Host  $http_host;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header Upgrade           $http_upgrade;
    proxy_set_header Connection        "upgrade";
    proxy_buffering                    off;

A tunnel or proxy on the same machine counts as one: without `behind_proxy` its requests carry a
foreign Host, which a hub on loopback refuses.

## Files of the data folder

Two locks lie there. `lock` belongs to whoever uses the folder as a whole, with any engine: a hub,
a restore, a backup of a stopped hub; it names the process that has it. `engine.lock` is the SQLite
engine's own, held while its database is open: an engine promises that nobody else writes its log,
and keeps that promise by itself, also for a program that opens it without the rest of the folder.
The kernel gives both back when a process ends, however it ends; neither needs deleting.
"""


# --- config.toml --------------------------------------------------------------


def toml() -> str:
    """A complete config.toml in which everything is commented out and says its default."""
    lines = [
        "# Every setting of a Clawnet hub, with its default. Take the # away to change one.",
        "# claw config --check tells whether a hub would start with this file.",
    ]
    table = ""
    for setting in catalogue().values():
        head, _, name = setting.name.rpartition(".")
        if head != table:
            table = head
            lines += ["", "", *_comment(_about(table)), f"[{table}]"]
        lines += ["", *_comment(setting.description), *_comment(_facts(setting))]
        lines.append(f"#{name} = {_toml_value(setting)}")
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, WIDTH - 2, break_on_hyphens=False)]


def _facts(setting: Setting) -> str:
    bounds = f", {limits}" if (limits := bounds_of(setting.type)) else ""
    unset = "; unset by default" if setting.default is None else ""
    return f"{kind_of(setting.type)}{bounds}; {setting.variable}{unset}"


def _toml_value(setting: Setting) -> str:
    if setting.default is not None:
        return toml_value(setting.default)
    examples = {"a switch": "true", "a whole number": "1", "a number": "1.0"}
    examples["a list of texts"] = "[]"
    return examples.get(kind_of(setting.type), '""')


def toml_value(value: Any) -> str:
    """A value as TOML writes it; tables are inline ones."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are TOML's, for every character that JSON escapes.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(part) for part in value) + "]"
    if isinstance(value, msgspec.Struct):
        value = msgspec.to_builtins(value)
    if isinstance(value, dict):
        if not value:
            return "{}"
        parts = (
            f"{toml_value(str(key))} = {toml_value(part)}"
            for key, part in value.items()
            if part is not None
        )
        return "{ " + ", ".join(parts) + " }"
    return repr(value)


# --- the page -----------------------------------------------------------------


def markdown() -> str:
    """docs/configuration.md."""
    lines = [INTRODUCTION, "## Settings"]
    table: str | None = None
    for setting in catalogue().values():
        head = setting.name.rpartition(".")[0]
        if head != table:
            table = head
            title = f"### `[{table}]`" if table else "### At the top"
            about = f"\n\n{_about(table)}" if table else ""
            lines.append(
                f"\n{title}{about}\n\n| setting | what | type | default |\n|---|---|---|---|"
            )
        lines.append(_row(setting))
    for name, kind in _nested():
        lines.append(f"\n### {name}\n\n{_sentence(kind)}\n\n| member | what | type | default |")
        lines.append("|---|---|---|---|")
        lines += [_row(setting, is_member=True) for setting in catalogue(kind).values()]
    aliases = [
        f"`{setting.name}` is also {' and '.join(f'`{alias}`' for alias in setting.variables[1:])}"
        for setting in catalogue().values()
        if len(setting.variables) > 1
    ]
    lines.append(f"\n### Other names in the environment\n\n{'; '.join(aliases)}.")
    unused = [f"`{name}`" for name in NOT_USED]
    lines.append(
        f"\n{', '.join(unused[:-1])} and {unused[-1]} have no effect yet: the hub keeps everything"
        " in its data folder, and says so at the start if one is set."
    )
    return "\n".join(lines) + "\n" + PROXIES


def _row(setting: Setting, *, is_member: bool = False) -> str:
    name = setting.name if is_member else setting.name.rpartition(".")[2]
    bounds = f", {limits}" if (limits := bounds_of(setting.type)) else ""
    default = "" if setting.default is None else f"`{toml_value(setting.default)}`"
    cells = [f"`{name}`", setting.description, kind_of(setting.type) + bounds, default]
    cells = [cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells]
    return f"| {' | '.join(cells)} |"


def _nested() -> Iterator[tuple[str, type[msgspec.Struct]]]:
    """The tables that a setting holds several of, each named for the setting."""
    for setting in catalogue().values():
        parts = get_args(plain(setting.type))
        if setting.is_table and parts and is_struct(parts[-1] if len(parts) > 1 else parts[0]):
            struct = next(plain(part) for part in reversed(parts) if is_struct(part))
            if get_origin(plain(setting.type)) is dict:
                yield f"`[{setting.name}.NAME]`", struct
            else:
                yield f"`[[{setting.name}]]`", struct


def _about(table: str) -> str:
    kind: Any = Settings
    for part in filter(None, table.split(".")):
        kind = plain(next(f.type for f in msgspec.structs.fields(kind) if f.name == part))
    return _sentence(kind)


def _sentence(kind: type) -> str:
    """The first paragraph of a type's docstring, in one line."""
    text = inspect.cleandoc(kind.__doc__ or "")
    return " ".join(text.partition("\n\n")[0].split())


# --- types --------------------------------------------------------------------


def kind_of(kind: Any) -> str:
    """A type in words."""
    kind = plain(kind)
    if isinstance(kind, UnionType) or get_origin(kind) is Union:
        return " or ".join(kind_of(part) for part in get_args(kind) if part is not type(None))
    if get_origin(kind) is Literal:
        return " or ".join(str(part) for part in get_args(kind))
    if get_origin(kind) is dict:
        return "a table of tables" if is_struct(get_args(kind)[1]) else "a table"
    if get_origin(kind) in (list, tuple):
        return "a list of tables" if is_struct(get_args(kind)[0]) else "a list of texts"
    words = {bool: "a switch", int: "a whole number", float: "a number", str: "a text"}
    return words.get(kind, str(kind))


def bounds_of(kind: Any) -> str:
    """The bounds of a number, in words; empty if there are none."""
    words: list[str] = []
    for meta in metas(kind):
        signs = {"above": meta.gt, "at least": meta.ge, "below": meta.lt, "at most": meta.le}
        words += [f"{word} {bound:,}" for word, bound in signs.items() if bound is not None]
    return ", ".join(words)


if __name__ == "__main__":
    sys.stdout.write(toml() if sys.argv[1:] == ["toml"] else markdown())
