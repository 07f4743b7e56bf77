"""Buckets and the trusted clock: time is given to both, so a year takes no time here."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawnet.core.limits import Bucket
from clawnet.core.times import rfc3339
from clawnet.core.trust import BELIEVE_AFTER_S, JUMP_MIN_S, TrustedClock

DAY_S = 86_400.0
YEAR_S = 365 * DAY_S
START_MS = 1_800_000_000_000


def test_a_bucket_gives_its_burst_and_then_says_how_long_to_wait() -> None:
    bucket = Bucket(rate_per_s=10, burst=5, now_s=0)
    assert [bucket.take(1, now_s=0) for _ in range(5)] == [0.0] * 5
    assert bucket.take(1, now_s=0) == pytest.approx(0.1)
    assert bucket.take(1, now_s=0.05) == pytest.approx(0.05)
    assert bucket.take(1, now_s=0.1) == 0.0


def test_a_refused_take_takes_nothing() -> None:
    bucket = Bucket(rate_per_s=1, burst=3, now_s=0)
    bucket.take(2, now_s=0)
    for _ in range(50):
        assert bucket.take(2, now_s=0) == pytest.approx(1.0)
    assert bucket.take(1, now_s=0) == 0.0


def test_more_than_the_burst_passes_from_a_full_bucket_only() -> None:
    bucket = Bucket(rate_per_s=10, burst=100, now_s=0)
    assert bucket.take(1_000, now_s=0) == 0.0
    assert bucket.take(1_000, now_s=0) == pytest.approx(10.0)
    assert bucket.take(1_000, now_s=10) == 0.0


def test_a_bucket_never_holds_more_than_its_burst() -> None:
    bucket = Bucket(rate_per_s=10, burst=2, now_s=0)
    assert bucket.is_full(now_s=0)
    assert [bucket.take(1, now_s=1e9) for _ in range(2)] == [0.0, 0.0]
    assert bucket.take(1, now_s=1e9) > 0
    assert not bucket.is_full(now_s=1e9)
    assert bucket.is_full(now_s=1e9 + 1)


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 20)), max_size=60))
def test_a_bucket_never_gives_more_than_burst_and_rate_allow(
    takes: list[tuple[float, int]],
) -> None:
    bucket = Bucket(rate_per_s=7, burst=20, now_s=0)
    now_s = given_out = 0.0
    for pause_s, n in takes:
        now_s += pause_s
        wait_s = bucket.take(n, now_s=now_s)
        if wait_s == 0.0:
            given_out += n
            assert given_out <= 20 + 7 * now_s + 1e-6
        else:
            # Waiting as told is enough.
            now_s += wait_s + 1e-9
            assert bucket.take(n, now_s=now_s) == 0.0
            given_out += n


class Clocks:
    """A wall and a steady clock, with a trusted one that looks at them every ten minutes."""

    def __init__(self, last_trusted_ms: int | None = None) -> None:
        self.wall_ms = START_MS
        self.steady_s = 100.0
        self.trusted = TrustedClock(
            wall_ms=self.wall_ms, steady_s=self.steady_s, last_trusted_ms=last_trusted_ms
        )

    def now_ms(self) -> int:
        return self.trusted.now_ms(wall_ms=self.wall_ms, steady_s=self.steady_s)

    def run(self, seconds: float, *, wall_rate: float = 1.0) -> int:
        """Let time pass, with the wall clock going `wall_rate` times too fast."""
        left = seconds
        while left > 0:
            step = min(left, 600.0)
            self.steady_s += step
            self.wall_ms += round(step * wall_rate * 1000)
            self.now_ms()
            left -= step
        return self.now_ms()

    def jump(self, seconds: float) -> None:
        self.wall_ms += round(seconds * 1000)


def test_without_jumps_it_is_the_wall_clock() -> None:
    clocks = Clocks()
    assert clocks.now_ms() == START_MS
    assert clocks.run(10 * DAY_S) == clocks.wall_ms


@pytest.mark.parametrize("jump_s", [YEAR_S, -YEAR_S, 3_600.0, -3_600.0, JUMP_MIN_S + 1])
def test_a_jump_is_not_believed_at_once(jump_s: float) -> None:
    clocks = Clocks()
    clocks.jump(jump_s)
    assert clocks.now_ms() == START_MS
    assert clocks.run(3_600) == START_MS + 3_600_000
    assert clocks.run(BELIEVE_AFTER_S - 7_200) < START_MS + 86_400_000


def test_a_jump_that_holds_for_a_day_is_believed() -> None:
    clocks = Clocks()
    clocks.jump(YEAR_S)
    assert clocks.run(BELIEVE_AFTER_S + 1_200) == clocks.wall_ms


def test_a_jump_back_is_never_believed_so_that_nothing_expired_revives() -> None:
    clocks = Clocks()
    clocks.jump(-YEAR_S)
    assert clocks.run(10 * BELIEVE_AFTER_S) == START_MS + round(10 * BELIEVE_AFTER_S * 1000)


@given(st.lists(st.tuples(st.floats(0, 3_600), st.floats(-1e8, 1e8)), max_size=30))
def test_it_never_goes_back(steps: list[tuple[float, float]]) -> None:
    clocks = Clocks()
    before = clocks.now_ms()
    for pass_s, jump_s in steps:
        clocks.jump(jump_s)
        now = clocks.run(pass_s)
        assert now >= before
        before = now


@pytest.mark.parametrize("jump_s", [YEAR_S, -YEAR_S])
def test_a_jump_that_is_taken_back_leaves_nothing(jump_s: float) -> None:
    clocks = Clocks()
    for _ in range(5):
        clocks.jump(jump_s)
        clocks.run(DAY_S / 2)
        clocks.jump(-jump_s)
        assert clocks.run(DAY_S / 2) == clocks.wall_ms


def test_two_jumps_in_one_day_are_doubted_anew_only_if_the_wall_was_right_between() -> None:
    clocks = Clocks()
    clocks.jump(YEAR_S)
    clocks.run(BELIEVE_AFTER_S * 0.9)
    clocks.jump(-YEAR_S)
    clocks.run(600)
    clocks.jump(YEAR_S)
    believed = clocks.run(BELIEVE_AFTER_S * 0.5)
    assert believed < START_MS + 2 * 86_400_000


@pytest.mark.parametrize("jump_s", [30.0, -30.0, 0.4, -0.4])
def test_small_corrections_never_turn_time_back(jump_s: float) -> None:
    clocks = Clocks()
    before = clocks.now_ms()
    clocks.jump(jump_s)
    assert clocks.now_ms() >= before
    assert abs(clocks.run(600) - clocks.wall_ms) <= 30_000


def test_a_wall_that_drifts_fast_is_followed() -> None:
    clocks = Clocks()
    assert clocks.run(60 * DAY_S, wall_rate=1.0001) == clocks.wall_ms


def test_a_wall_that_drifts_slow_is_followed() -> None:
    clocks = Clocks()
    assert clocks.run(60 * DAY_S, wall_rate=0.9999) == clocks.wall_ms


def test_a_restart_after_a_long_pause_goes_on_where_time_was() -> None:
    """Whether the machine was off for a year or its clock is wrong is not known at once."""
    before_ms = START_MS - round(YEAR_S * 1000)
    clocks = Clocks(last_trusted_ms=before_ms)
    assert clocks.now_ms() == before_ms
    assert clocks.run(3_600) == before_ms + 3_600_000
    assert clocks.run(BELIEVE_AFTER_S) == clocks.wall_ms


def test_a_restart_with_the_wall_a_year_back_revives_nothing() -> None:
    before_ms = START_MS + round(YEAR_S * 1000)
    clocks = Clocks(last_trusted_ms=before_ms)
    assert clocks.now_ms() == before_ms
    assert clocks.run(BELIEVE_AFTER_S / 2) > before_ms


def test_a_restart_within_a_minute_is_no_jump() -> None:
    clocks = Clocks(last_trusted_ms=START_MS - 30_000)
    assert clocks.now_ms() == START_MS


def test_times_are_written_in_utc_with_milliseconds() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(1_795_257_000_123) == "2026-11-21T10:30:00.123Z"
    assert rfc3339(1_795_257_000_999) == "2026-11-21T10:30:00.999Z"
