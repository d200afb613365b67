"""When a bucket's exemplar is replaced: a model of the rules, and a histogram whose clocks go where they please."""

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exemplars.metrics import Histogram
from exemplars.policy import MAX_LEAD_MS, Policy, Slot, next_timestamp
from tests.measured import Clock

# Eighths add up without rounding.
seconds = st.integers(min_value=0, max_value=8 * 400).map(lambda eighths: eighths / 8)
milliseconds = st.integers(min_value=0, max_value=2**45)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    low, high = sorted((draw(seconds), draw(seconds)))
    return Policy(min_retention=low, max_age=high or 0.125)


@given(now=milliseconds, last=milliseconds | st.none())
def test_a_timestamp_is_newer_than_the_last_and_leads_the_wall_clock_by_a_second_at_most(
    now: int, last: int | None
) -> None:
    chosen = next_timestamp(now, last)

    if chosen is None:
        assert last is not None and last - now >= MAX_LEAD_MS
    else:
        assert last is None or chosen > last
        assert now <= chosen <= now + MAX_LEAD_MS
        assert chosen == now or (last is not None and chosen == last + 1), "never later than it has to be"


@dataclass(frozen=True)
class Step:
    """Time passes, the wall clock is set, and something is observed."""

    passes: float
    wall_step_ms: int
    amount: float


steps = st.lists(
    st.builds(
        Step,
        passes=st.just(0.0) | seconds,
        wall_step_ms=st.just(0) | st.integers(-2 * MAX_LEAD_MS, 2 * MAX_LEAD_MS) | st.integers(-(10**8), 10**8),
        amount=st.integers(0, 30).map(float),
    ),
    max_size=60,
)


@dataclass
class Model:
    """The rules once more, in the words of their description."""

    policy: Policy
    bounds: tuple[float, ...]
    kept: dict[float, tuple[str, float, int, float]] = field(default_factory=dict)  # label, amount, ms, taken at

    def observe(self, label: str, amount: float, now: float, wall_ms: int) -> None:
        bucket = next((bound for bound in self.bounds if amount <= bound), math.inf)
        timestamp = wall_ms
        if bucket in self.kept:
            _, slowest, last_ms, taken_at = self.kept[bucket]
            if now < taken_at + self.policy.min_retention and amount <= slowest:
                return  # inside the retention, only a slower one
            if wall_ms <= last_ms:
                timestamp = last_ms + 1
                if timestamp > wall_ms + 1000:
                    return  # the wall clock stepped back too far
        self.kept[bucket] = label, amount, timestamp, now

    def shown(self, now: float) -> dict[float, tuple[str, float, int]]:
        return {
            bucket: (label, amount, timestamp)
            for bucket, (label, amount, timestamp, taken_at) in self.kept.items()
            if now - taken_at <= self.policy.max_age
        }


def shown(histogram: Histogram) -> dict[float, tuple[str, float, int]]:
    (family,) = histogram.collect()
    return {
        float(sample.labels["le"]): (
            sample.exemplar.labels["id"],
            sample.exemplar.value,
            round(float(sample.exemplar.timestamp or 0) * 1000),
        )
        for sample in family.samples
        if sample.exemplar is not None
    }


@given(policy=policies(), steps=steps)
def test_buckets_show_what_the_rules_say_whatever_the_clocks_do(policy: Policy, steps: list[Step]) -> None:
    bounds = (10.0, 20.0)
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock(patch)
        histogram = Histogram("h", "h", registry=None, buckets=bounds, policy=policy)
        model = Model(policy, bounds)
        newest: dict[float, tuple[str, int]] = {}
        for number, step in enumerate(steps):
            clock.advance(step.passes, wall_step_ms=step.wall_step_ms)
            # What has expired is gone before anything new comes, also from a series that did not change.
            assert shown(histogram) == model.shown(clock.now)

            histogram.observe(step.amount, {"id": str(number)})
            model.observe(str(number), step.amount, clock.now, clock.wall_ms)

            page = shown(histogram)
            assert page == model.shown(clock.now)
            for bucket, (label, amount, timestamp) in page.items():
                last_label, last_timestamp = newest.get(bucket, (label, timestamp))
                assert (label == last_label) == (timestamp == last_timestamp)
                assert timestamp >= last_timestamp, "Prometheus would drop it"
                newest[bucket] = label, timestamp
                if label == str(number):
                    assert timestamp <= clock.wall_ms + MAX_LEAD_MS
                    assert amount == step.amount


def test_a_slower_request_replaces_inside_the_retention_and_the_next_one_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    histogram = Histogram("h", "h", registry=None, buckets=(10.0,), policy=Policy(min_retention=7.0, max_age=240.0))

    histogram.observe(5.0, {"id": "first"})
    clock.advance(6.999)
    histogram.observe(5.0, {"id": "no slower"})
    assert shown(histogram)[10.0][0] == "first"

    histogram.observe(5.1, {"id": "slower"})
    assert shown(histogram)[10.0][0] == "slower"

    clock.advance(6.999)
    histogram.observe(1.0, {"id": "inside the retention of the slower one"})
    assert shown(histogram)[10.0][0] == "slower"

    clock.advance(0.001)
    histogram.observe(1.0, {"id": "next"})
    assert shown(histogram)[10.0][0] == "next"

    clock.advance(240.0)
    assert shown(histogram)[10.0][0] == "next"
    clock.advance(0.001)
    assert shown(histogram) == {}


def test_a_wall_clock_that_stepped_back_is_followed_for_a_second_then_nothing_is_taken_until_it_caught_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    histogram = Histogram("h", "h", registry=None, buckets=(10.0,), policy=Policy(min_retention=0.0))

    def taken(label: str) -> int | None:
        histogram.observe(1.0, {"id": label})
        page = shown(histogram)[10.0]
        return page[2] if page[0] == label else None

    start = clock.wall_ms
    assert taken("now") == start
    assert taken("same millisecond") == start + 1
    clock.advance(0, wall_step_ms=-998)
    assert taken("a second ahead") == start + 2 == clock.wall_ms + 1000
    assert taken("more than a second") is None
    clock.advance(0.001)
    assert taken("caught up by a millisecond") == start + 3
    clock.advance(0, wall_step_ms=-3_600_000)
    assert taken("an hour back") is None
    clock.advance(3602)
    assert taken("caught up") == clock.wall_ms


ages = st.integers(0, 8 * 1000).map(lambda eighths: eighths / 8)


@given(policy=policies(), one=ages, other=ages)
def test_freshness_is_nothing_for_a_bucket_that_shows_nothing_and_falls_with_the_age_of_what_is_shown(
    policy: Policy, one: float, other: float
) -> None:
    def freshness(age: float) -> float:
        return policy.freshness(Slot(1.0, 1, taken_at=0.0, held_until=policy.min_retention), age)

    assert policy.freshness(None, one) == 0.0
    for age in (one, other):
        assert 0.0 <= freshness(age) <= 1.0
        expired = age > policy.max_age
        assert policy.expired(Slot(1.0, 1, taken_at=0.0, held_until=0.0), age) is expired
        assert (freshness(age) == 0.0) is expired
    younger, older = sorted((one, other))
    if younger >= policy.min_retention:
        assert freshness(younger) >= freshness(older)


@pytest.mark.parametrize(
    ("given_", "named"),
    [
        ({"min_retention": -1.0}, "min_retention=-1.0"),
        ({"min_retention": 8.0, "max_age": 7.0}, "max_age=7.0"),
        ({"min_retention": 0.0, "max_age": 0.0}, "max_age=0.0"),
        ({"max_age": math.inf}, "max_age is inf"),
        ({"min_retention": math.nan}, "min_retention is nan"),
        ({"min_retention": "7"}, "min_retention is '7'"),
        ({"max_age": None}, "max_age is None"),
        ({"max_age": True}, "max_age is True"),
    ],
)
def test_a_policy_that_cannot_be_is_refused_by_name_and_value(given_: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError) as refused:
        Policy(**given_)

    assert named in str(refused.value)
    assert "give" in str(refused.value) or "must be" in str(refused.value)


def test_the_extremes_that_are_allowed() -> None:
    assert Policy(min_retention=0).min_retention == 0
    assert Policy(min_retention=5, max_age=5).max_age == 5
    assert Policy() == Policy(min_retention=7.0, max_age=240.0)


def held_slot() -> Slot:
    """One of value 5 that was taken at 100 and is held until 107."""
    return Slot(5.0, 1, taken_at=100.0, held_until=107.0)


def test_a_refusal_inside_the_retention_leaves_room_for_what_is_slower_still() -> None:
    slot = held_slot()
    assert slot.welcomes(6.0, 103.0)

    slot.refuse(6.0, 103.0, wait=2.0)

    assert not slot.welcomes(6.0, 104.0)
    assert slot.welcomes(6.5, 104.0)
    assert slot.welcomes(0.0, 107.0), "after the retention, anybody"


def test_a_refusal_after_the_retention_lets_only_a_slower_one_ask_before_there_may_be_a_mark() -> None:
    slot = held_slot()
    slot.refuse(1.0, 108.0, wait=2.0)

    assert not slot.welcomes(1.0, 109.9)
    assert slot.welcomes(1.1, 109.9)
    assert slot.welcomes(0.0, 110.0)
    slot.refuse(1.0, 110.0, wait=3.0)
    assert not slot.welcomes(1.0, 112.9)
    assert slot.welcomes(1.0, 113.0)
    assert (slot.value, slot.taken_at, slot.timestamp_ms) == (5.0, 100.0, 1), "what is shown stays"


@given(
    refusals=st.lists(st.tuples(seconds, st.floats(0, 10), st.sampled_from((0.0, 0.125, 5.0))), max_size=10),
    value=st.floats(0, 10),
    passes=seconds,
)
def test_refusals_never_make_welcome_what_was_not(
    refusals: list[tuple[float, float, float]], value: float, passes: float
) -> None:
    slot, untouched = held_slot(), held_slot()
    now = 100.0
    for later, refused, wait in refusals:
        now += later
        if slot.welcomes(refused, now):
            slot.refuse(refused, now, wait)
            assert not slot.welcomes(refused, now) or wait == 0.0
    now += passes

    assert untouched.welcomes(value, now) or not slot.welcomes(value, now)
    # And everything passes, in the longest wait at most.
    assert slot.welcomes(value, max(now, 107.0) + 5.0)
