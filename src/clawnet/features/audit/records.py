"""What of the log goes into the audit chain, and how it looks there. No message's text does."""

from __future__ import annotations

from typing import Any

import msgspec

from clawnet.core.audit import Record
from clawnet.core.callers import HUB
from clawnet.core.calls.tasks import ENDED
from clawnet.core.calls.tasks import SYSTEM_CHANNEL as TASKS
from clawnet.core.channels import LOBBY
from clawnet.core.events import Stored
from clawnet.core.ids import salt_from_id, salt_of
from clawnet.core.times import rfc3339

AUDIT_CHANNEL = "system.audit"
_PREFIXES = ("room.", "dm.", "system.")
_NOT = ("system.presence", "system.timer.", "system.fleet.")
_OWN = "audit.checkpoint"
_TASK_TYPES = {
    "task.queued": "dispatch",
    "task.submitted": "dispatch",
    "task.awaiting_approval": "dispatch",
    "task.approved": "approval",
} | {f"task.{status}": "task_result" for status in ENDED}
_TOLD = (
    "account", "channel", "verbs", "role", "handle", "was", "changed", "id", "token",
    "name", "scopes", "room", "agent", "agent_id", "proof", "what", "code", "count", "offset",
    "topic_changed", "private", "kind", "key", "again", "restored",
)  # fmt: skip
"""Members of an event's data that a record may show: names and counts, never what was said."""


class _Members(msgspec.Struct, frozen=True):
    """Of a stored head."""

    imported: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def is_followed(channel: str) -> bool:
    """Whether events of a channel may be wanted."""
    return channel == LOBBY or (channel.startswith(_PREFIXES) and not channel.startswith(_NOT))


def is_wanted(channel: str, type: str) -> bool:
    """Whether an event is recorded. Asked for each event there is, so it must be quick."""
    if type == "chat.message" or type == "chat.deleted":
        return channel == LOBBY or channel.startswith(("room.", "dm."))
    if type.startswith("x.") or not is_followed(channel):
        return False
    if type.startswith("task."):
        return channel == TASKS and type in _TASK_TYPES
    return type != _OWN


def record_of(event: Stored) -> Record:
    """The record of an event that is wanted."""
    kind = _TASK_TYPES.get(event.type) or _NAMES.get(event.type) or event.type.replace(".", "_")
    record: Record = {
        "type": kind,
        "seq": event.seq,
        "from": event.actor_id,
        "to": event.channel,
        "tenant_id": event.world,
        "ts": rfc3339(event.ts_ms),
        "event": event.id,
    }
    if (
        '"imported":' in event.head
        and msgspec.json.decode(f"{{{event.head}}}", type=_Members).imported
    ):
        record["imported"] = True
    if salt_from_id(event.id) != salt_of(event.epoch.partition(".")[0]):
        # A warden handed it back: it says what happened, and did not happen now.
        record["restored"] = True
    if event.actor_id == HUB.account:
        # What others say is in their own words, and those stay out.
        _add_told(record, event)
    return record


_NAMES = {
    "chat.message": "chat_send",
    "chat.deleted": "chat_delete",
    "audit.refused": "refusal",
    "audit.login": "login",
}


def _add_told(record: Record, event: Stored) -> None:
    data: Any = msgspec.json.decode(event.data)
    if not isinstance(data, dict):
        return
    by = data.get("by")
    if event.type.startswith("task."):
        record["task_id"] = data.get("task_id")
        record["status"] = data.get("status")
        record["from"] = data.get("from_id", by or event.actor_id)
        if data.get("revision", 1) != 1 and record["type"] == "dispatch":
            # Sent again, or after its approval: it was dispatched once.
            record["type"] = event.type.replace(".", "_")
        record["to"] = data.get("to", event.channel)
        record["digest"] = data.get("digest")
        if record["type"] == "task_result":
            record["agent_id"] = data.get("to")
        return
    if isinstance(by, str):
        record["from"] = by
    told = {name: data[name] for name in _TOLD if name in data}
    if told:
        record["told"] = told
