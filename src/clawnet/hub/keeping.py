"""How long which event is kept: the retention settings as one answer for a channel and a type.

Each event is governed by one rule: the first whose channels and types cover it, else by the
settings for all. `keep_types` is a rule like others, before the rest. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from clawnet.core.channels import is_pattern, matches, parse
from clawnet.hub.settings import FOREVER, RetentionRule, RetentionSettings

DAY_MS = 86_400_000
_MEMO_MAX = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What a rule comes to. None: no bound."""

    age_max_ms: int | None
    events_max: int | None


class Keeping:
    """Finds the rule of an event; asked by the loop and by the writer's thread."""

    def __init__(self, settings: RetentionSettings, *, events_max: int | None) -> None:
        """`events_max` is the bound of a channel that no rule names."""
        age_max_ms = int(settings.age_max_days * DAY_MS)
        rules = list(settings.rules)
        if settings.keep_types:
            kept = RetentionRule(types=list(settings.keep_types), age_max_days=FOREVER)
            rules.insert(0, kept)
        self._rules = tuple(rules)
        self.bounds = (
            *(_bound(rule, age_max_ms, events_max) for rule in rules),
            Bound(age_max_ms=age_max_ms, events_max=events_max),
        )
        """By number; the last is that of events which no rule covers."""
        ages = {bound.age_max_ms for bound in self.bounds if bound.age_max_ms is not None}
        self.ages_ms = tuple(sorted(ages))
        self.is_counting = any(bound.events_max is not None for bound in self.bounds)
        self._memo: dict[tuple[str, str], int] = {}
        self._numbers: dict[str, tuple[int, ...]] = {}

    @property
    def has_rules(self) -> bool:
        """Whether events are kept differently at all."""
        return bool(self._rules)

    def number(self, channel: str, type: str) -> int:
        """Which of `bounds` governs events of a channel and type."""
        key = (channel, type)
        found = self._memo.get(key)
        if found is None:
            if len(self._memo) >= _MEMO_MAX:
                self._memo.clear()
            found = self._memo[key] = self._number(channel, type)
        return found

    def numbers(self, channel: str) -> tuple[int, ...]:
        """All that may govern events of a channel; one if its types make no difference."""
        found = self._numbers.get(channel)
        if found is None:
            if len(self._numbers) >= _MEMO_MAX:
                self._numbers.clear()
            found = self._numbers[channel] = self._possible(channel)
        return found

    def is_older_than(self, channel: str, type: str, age_ms: int) -> bool:
        """Whether events of that age need not be kept any more."""
        age_max_ms = self.bounds[self.number(channel, type)].age_max_ms
        return age_max_ms is not None and age_max_ms <= age_ms

    def _number(self, channel: str, type: str) -> int:
        for number, rule in enumerate(self._rules):
            if _covers(rule.channels, channel) and _is_meant(rule, type):
                return number
        return len(self._rules)

    def _possible(self, channel: str) -> tuple[int, ...]:
        found: list[int] = []
        for number, rule in enumerate(self._rules):
            if _covers(rule.channels, channel):
                found.append(number)
                if not rule.types:
                    return tuple(found)
        return (*found, len(self._rules))


def _bound(rule: RetentionRule, age_max_ms: int, events_max: int | None) -> Bound:
    if rule.age_max_days == FOREVER:
        return Bound(age_max_ms=None, events_max=rule.events_max)
    if isinstance(rule.age_max_days, int | float):
        age_max_ms = int(rule.age_max_days * DAY_MS)
    return Bound(
        age_max_ms=age_max_ms,
        events_max=events_max if rule.events_max is None else rule.events_max,
    )


def _covers(wanted: str, channel: str) -> bool:
    return matches(wanted, channel) if is_pattern(wanted) else parse(wanted).name == channel


def _is_meant(rule: RetentionRule, type: str) -> bool:
    return not rule.types or any(matches(wanted, type) for wanted in rule.types)
