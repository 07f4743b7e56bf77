"""Finds which of many names and patterns cover a channel, without asking each."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

from clawnet.core.channels import is_pattern

K = TypeVar("K", bound=Hashable)

_MEMO_MAX = 16_384


class _Node(Generic[K]):
    __slots__ = ("below", "ends", "next")

    def __init__(self) -> None:
        self.next: dict[str, _Node[K]] = {}
        self.ends: set[K] = set()
        self.below: set[K] = set()


class PatternIndex(Generic[K]):
    """Keys by the name or pattern they follow.

    match() costs a dictionary look-up for a channel seen since the last
    change, else a walk of the trie along the channel's segments.
    """

    def __init__(self) -> None:
        self._exact: dict[str, set[K]] = {}
        self._root: _Node[K] = _Node()
        self._memo: dict[str, tuple[K, ...]] = {}

    def add(self, pattern: str, key: K) -> None:
        """Let `key` follow a name or pattern. Twice is once."""
        self._memo.clear()
        if not is_pattern(pattern):
            self._exact.setdefault(pattern, set()).add(key)
            return
        node, is_below = self._walk(pattern)
        (node.below if is_below else node.ends).add(key)

    def remove(self, pattern: str, key: K) -> None:
        """Take back an add(); no error if there was none."""
        self._memo.clear()
        if not is_pattern(pattern):
            keys = self._exact.get(pattern)
            if keys is not None:
                keys.discard(key)
                if not keys:
                    del self._exact[pattern]
            return
        self._prune(self._root, pattern.split("."), key)

    def match(self, channel: str) -> tuple[K, ...]:
        """The keys whose name or pattern covers the channel, each once."""
        found = self._memo.get(channel)
        if found is None:
            if len(self._memo) >= _MEMO_MAX:
                self._memo.clear()
            found = self._memo[channel] = tuple(self._collect(channel))
        return found

    def _walk(self, pattern: str) -> tuple[_Node[K], bool]:
        node = self._root
        for segment in pattern.split("."):
            if segment == ">":
                return node, True
            node = node.next.setdefault(segment, _Node())
        return node, False

    def _prune(self, node: _Node[K], segments: list[str], key: K) -> None:
        head, rest = segments[0], segments[1:]
        if head == ">":
            node.below.discard(key)
            return
        child = node.next.get(head)
        if child is None:
            return
        if rest:
            self._prune(child, rest, key)
        else:
            child.ends.discard(key)
        if not (child.next or child.ends or child.below):
            del node.next[head]

    def _collect(self, channel: str) -> set[K]:
        found = set(self._exact.get(channel, ()))
        segments = channel.split(".")
        for node, depth in self._reach(self._root, segments, 0):
            if depth < len(segments):
                found |= node.below
            else:
                found |= node.ends
        return found

    def _reach(
        self, node: _Node[K], segments: list[str], depth: int
    ) -> Iterator[tuple[_Node[K], int]]:
        yield node, depth
        if depth == len(segments):
            return
        for step in (segments[depth], "*"):
            child = node.next.get(step)
            if child is not None:
                yield from self._reach(child, segments, depth + 1)
