"""What is said in a room, as lines for a person. Pure; what others wrote is made harmless.

Only the hub's own words begin a line: the further lines of a text are set in, so that none of
them can pass for another message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from clawnet.cli.terminal import harmless

SHOWN_MAX_CHARS = 8_000
"""Of a message; the history has it whole."""
_INDENT = "      | "


def clock(ts: str) -> str:
    """The local time of day of an RFC 3339 time, or dashes."""
    try:
        return f"{datetime.fromisoformat(ts).astimezone():%H:%M}"
    except ValueError:
        return "--:--"


def speaker(handle: object, id: object) -> str:
    """Who spoke: the handle, and the id where it is another."""
    return str(id) if not handle or handle == id else f"{handle} (@{id})"


def told(message: Mapping[str, Any]) -> str:
    """A message or event of a room (a v2 envelope as JSON) as a line, or some."""
    payload = message.get("payload")
    members = payload if isinstance(payload, dict) else {}
    kind = str(message.get("type") or "chat.message")
    at = clock(str(message.get("ts", "")))
    who = harmless(speaker(message.get("from_handle"), message.get("from_id")))
    if kind == "chat.message":
        if message.get("deleted"):
            return f"{at} {who}: (deleted)"
        return f"{at} {who}: {_set_in(_text_of(payload))}"
    return f"{at} * {_set_in(_happened(kind, members))}"


def _text_of(payload: object) -> str:
    """The text of a payload; what has none (another client's) as JSON."""
    text = payload.get("text") if isinstance(payload, dict) else payload
    return text if isinstance(text, str) else json.dumps(payload, ensure_ascii=False)


def _happened(kind: str, data: Mapping[str, Any]) -> str:
    if kind.startswith("task."):
        return task_line(data)
    whom = data.get("account") or data.get("agent") or data.get("by") or "somebody"
    said = {
        "room.created": f"{data.get('by')} made this room",
        "room.updated": f"{data.get('by')} changed this room: {_changes(data)}",
        "room.joined": f"{whom} joined",
        "room.left": f"{whom} left",
        "room.invited": f"{data.get('by')} invited {whom}",
        "chat.deleted": f"{data.get('by')} deleted message {data.get('offset')}",
    }.get(kind)
    return said or f"{kind} {json.dumps(dict(data), ensure_ascii=False)}"


def _changes(data: Mapping[str, Any]) -> str:
    names = ("topic", "private", "history")
    given = [f"{name} {data[name]!s}" for name in names if data.get(name) is not None]
    return ", ".join(given) or "its settings"


def task_line(task: Mapping[str, Any]) -> str:
    """A task in a line: who has it, what it is, how it stands, and how it came to that."""
    parts = [f"task {task.get('task_id')} for {task.get('to')}: {task.get('status')}"]
    command = str(task.get("command") or "")
    if command and task.get("status") in ("queued", "submitted", "awaiting_approval"):
        parts.append(f"({task.get('kind')}) {command[:200]}")
    if task.get("exit_code") is not None:
        parts.append(f"exit code {task['exit_code']}")
    if task.get("reason"):
        parts.append(str(task["reason"]))
    line = ", ".join(parts)
    for member in ("output", "error"):
        text = task.get(member)
        if isinstance(text, str) and text.strip():
            line += f"\n{text.rstrip()}"
    return line


def _set_in(text: str) -> str:
    """Text with line breaks kept and everything else that a terminal obeys made visible."""
    if len(text) > SHOWN_MAX_CHARS:
        text = text[:SHOWN_MAX_CHARS] + " …"
    lines = text.replace("\r\n", "\n").split("\n")
    return f"\n{_INDENT}".join(harmless(line) for line in lines)


def blocks(text: str) -> str:
    """Somebody's output for a terminal: its lines, harmless."""
    return "\n".join(harmless(line) for line in text.replace("\r\n", "\n").split("\n"))
