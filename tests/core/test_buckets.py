"""Buckets by key: each key has its own, and the table is bounded."""

from __future__ import annotations

from clawnet.core.buckets import Buckets


def test_each_key_has_its_own_bucket() -> None:
    buckets = Buckets(rate_per_s=2, burst=2)
    assert [buckets.take("a", now_s=0) for _ in range(3)] == [0, 0, 0.5]
    assert buckets.take("b", now_s=0) == 0
    assert buckets.take("a", now_s=0.5) == 0


def test_a_full_table_forgets_who_was_idle_longest_and_nobody_else() -> None:
    buckets = Buckets(rate_per_s=0.001, burst=1, keys_max=3)
    for key in "abc":
        assert buckets.take(key, now_s=0) == 0
    assert buckets.take("a", now_s=1) > 0, "used again, so it stays longer than b"
    assert buckets.take("d", now_s=1) == 0
    assert len(buckets) == 3
    assert buckets.take("a", now_s=1) > 0
    assert buckets.take("c", now_s=1) > 0
    assert buckets.take("b", now_s=1) == 0, "forgotten"


def test_full_buckets_are_the_first_to_go() -> None:
    buckets = Buckets(rate_per_s=1, burst=1, keys_max=3)
    for key, at in (("a", 0), ("b", 100), ("c", 100)):
        buckets.take(key, now_s=at)
    buckets.take("d", now_s=100)
    assert len(buckets) == 3
    assert buckets.take("b", now_s=100) > 0
