"""What a token or the server API may say of a subscription, other than its namespace does."""

from __future__ import annotations

from typing import Any

OVERRIDES = frozenset(
    "presence join_leave force_push_join_leave force_positioning force_recovery".split()
)


def overrides_of(said: dict[str, Any] | None) -> dict[str, bool]:
    """`{"presence": {"value": true}}` as `{"presence": True}`.

    Options that are not known here are passed over, as Centrifugo does. Raises ValueError with
    the name of one whose value is none.
    """
    found: dict[str, bool] = {}
    for name, option in (said or {}).items():
        if name not in OVERRIDES or option is None:
            continue
        value = option.get("value", False) if isinstance(option, dict) else None
        if not isinstance(value, bool):
            raise ValueError(name)
        found[name] = value
    return found
