"""How long which event is kept: the retention settings as one answer for a channel and a type.

Each event is governed by one rule: the first whose channels and types cover it, else by the
settings for all. `keep_types` is a rule like others, before the rest; between the two come the
namespaces that say how much their free names keep. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from clawnet.core.channels import Kind, is_pattern, matches, parse
from clawnet.hub.settings import FOREVER, NamespaceSettings, RetentionRule, RetentionSettings

DAY_MS = 86_400_000
_MEMO_MAX = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What a rule comes to. None: no bound."""

    age_max_ms: int | None
    events_max: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Own:
    """How much a namespace says that its channels keep. None: as all channels."""

    namespace: str
    age_max_ms: int | None
    events_max: int | None
    types: tuple[str, ...] = ()

    @staticmethod
    def of(name: str, rule: NamespaceSettings) -> _Own | None:
        """None where it says nothing. What cannot be read (0 events) is kept as all is: it is
        still on its way to who was away for a moment."""
        if rule.history_ttl_s is None and not rule.history_size:
            return None
        age_max_ms = None if rule.history_ttl_s is None else int(rule.history_ttl_s * 1000)
        return _Own(namespace=name, age_max_ms=age_max_ms, events_max=rule.history_size or None)


class Keeping:
    """Finds the rule of an event; asked by the loop and by the writer's thread."""

    def __init__(
        self,
        settings: RetentionSettings,
        *,
        events_max: int | None,
        namespaces: Mapping[str, NamespaceSettings] = MappingProxyType({}),
        namespace_of: Callable[[str], str | None] = lambda name: None,
    ) -> None:
        """`events_max` is the bound of a channel that no rule names. `namespace_of` names the
        declared namespace of a free name."""
        age_max_ms = int(settings.age_max_days * DAY_MS)
        self._namespace_of = namespace_of
        kept: list[RetentionRule | _Own] = []
        if settings.keep_types:
            kept.append(RetentionRule(types=list(settings.keep_types), age_max_days=FOREVER))
        owns = [_Own.of(name, rule) for name, rule in namespaces.items()]
        self._rules = (*kept, *(own for own in owns if own is not None), *settings.rules)
        self.bounds = (
            *(_bound(rule, age_max_ms, events_max) for rule in self._rules),
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
            if self._covers(rule, channel) and _is_meant(rule, type):
                return number
        return len(self._rules)

    def _possible(self, channel: str) -> tuple[int, ...]:
        found: list[int] = []
        for number, rule in enumerate(self._rules):
            if self._covers(rule, channel):
                found.append(number)
                if not rule.types:
                    return tuple(found)
        return (*found, len(self._rules))

    def _covers(self, rule: RetentionRule | _Own, channel: str) -> bool:
        if isinstance(rule, _Own):
            # Free names need not be dotted, so no pattern says which are a namespace's.
            is_free = parse(channel).kind is Kind.FREE
            return is_free and self._namespace_of(channel) == rule.namespace
        wanted = rule.channels
        return matches(wanted, channel) if is_pattern(wanted) else parse(wanted).name == channel


def _bound(rule: RetentionRule | _Own, age_max_ms: int, events_max: int | None) -> Bound:
    if isinstance(rule, _Own):
        return Bound(
            age_max_ms=age_max_ms if rule.age_max_ms is None else rule.age_max_ms,
            events_max=events_max if rule.events_max is None else rule.events_max,
        )
    if rule.age_max_days == FOREVER:
        return Bound(age_max_ms=None, events_max=rule.events_max)
    if isinstance(rule.age_max_days, int | float):
        age_max_ms = int(rule.age_max_days * DAY_MS)
    return Bound(
        age_max_ms=age_max_ms,
        events_max=events_max if rule.events_max is None else rule.events_max,
    )


def _is_meant(rule: RetentionRule | _Own, type: str) -> bool:
    return not rule.types or any(matches(wanted, type) for wanted in rule.types)
