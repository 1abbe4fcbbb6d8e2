"""The sandbox's pure parts: billing periods (month ends, leap days), prorations and allocations."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.billing_sandbox.clock import add_interval, period_around
from tools.billing_sandbox.forms import Params, StripeError, decode
from tools.billing_sandbox.proration import Holding, allocate, half_up, line_amount, prorations, remaining_share, tax_amount

MOMENTS = st.integers(min_value=0, max_value=4_000_000_000)
INTERVALS = st.sampled_from([("day", 1), ("week", 2), ("month", 1), ("month", 3), ("year", 1)])
START, DAY = 1_700_000_000, 86_400


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("anchor", "interval", "count", "expected"),
    [
        ("2027-01-31T10:00:00", "month", 1, "2027-02-28T10:00:00"),
        ("2028-01-31T10:00:00", "month", 1, "2028-02-29T10:00:00"),  # leap year
        ("2027-01-31T10:00:00", "month", 2, "2027-03-31T10:00:00"),  # the 31st comes back
        ("2027-01-31T10:00:00", "month", 3, "2027-04-30T10:00:00"),
        ("2027-12-15T23:59:59", "month", 1, "2028-01-15T23:59:59"),
        ("2028-02-29T00:00:00", "year", 1, "2029-02-28T00:00:00"),
        ("2028-02-29T00:00:00", "year", 4, "2032-02-29T00:00:00"),
        ("2027-03-28T00:30:00", "day", 1, "2027-03-29T00:30:00"),  # Europe changes to summer time: UTC does not
        ("2028-03-31T00:00:00", "month", -1, "2028-02-29T00:00:00"),
    ],
)
def test_intervals(anchor, interval, count, expected):
    assert add_interval(at(anchor), interval, count) == at(expected)


@given(MOMENTS, INTERVALS, MOMENTS)
def test_every_moment_lies_in_exactly_one_period(anchor, interval, moment):
    start, end = period_around(anchor, *interval, moment)
    assert start <= moment < end
    assert period_around(anchor, *interval, end)[0] == end
    assert period_around(anchor, *interval, start - 1)[1] == start


@given(st.fractions(min_value=-(10**9), max_value=10**9))
def test_rounding_is_to_the_nearest_and_mirrors(value):
    assert abs(half_up(value) - value) <= Fraction(1, 2)
    assert half_up(-value) == -half_up(value)


def test_halves_go_away_from_zero():
    assert [half_up(Fraction(n, 2)) for n in (1, 3, -1, -3)] == [1, 2, -1, -2]
    assert line_amount(Decimal("0.25"), 6) == 2


@given(st.integers(0, 10**8), st.integers(1, 400 * DAY), st.data())
def test_a_share_is_within_a_cent_of_the_time_left(amount, length, data):
    moment = data.draw(st.integers(0, length))
    share = remaining_share(amount, START, START + length, START + moment)
    assert 0 <= share <= amount
    assert abs(share - Fraction(amount * (length - moment), length)) <= Fraction(1, 2)
    rest = remaining_share(amount, START, START + length, START + length - moment)
    assert abs(share + rest - amount) <= 1


@given(st.integers(0, 10**7), st.integers(0, 10**7), st.integers(1, 9), st.integers(0, 30 * DAY))
def test_changing_there_and_back_costs_nothing(old, new, quantity, moment):
    period = (START, START + 30 * DAY)
    a, b = Holding("a", Decimal(old), quantity, *period), Holding("b", Decimal(new), quantity, *period)
    there, back = prorations([a], [b], START + moment), prorations([b], [a], START + moment)
    assert sum(p.amount for p in there + back) == 0
    assert [p.credit for p in there] == [True, False] and there[0].amount <= 0 <= there[1].amount
    assert prorations([a, b], [b, a], START + moment) == []  # what does not change is not touched


def test_an_upgrade_in_the_middle_of_the_month():
    period = (at("2027-06-01T00:00:00"), at("2027-07-01T00:00:00"))
    pro, enterprise = Holding("pro", Decimal(2900), 1, *period), Holding("enterprise", Decimal(9900), 1, *period)
    assert [p.amount for p in prorations([pro], [enterprise], at("2027-06-16T00:00:00"))] == [-1450, 4950]


def test_a_change_outside_the_period_is_refused():
    with pytest.raises(ValueError, match="expected a time within the period"):
        remaining_share(100, START, START + 10, START + 11)


@given(st.integers(0, 10**9), st.lists(st.integers(0, 10**6), min_size=1, max_size=20))
def test_allocations_sum_up(total, weights):
    shares = allocate(total, weights)
    assert sum(shares) == (total if any(weights) else 0)
    assert all(abs(s * sum(weights) - total * w) < sum(weights) for s, w in zip(shares, weights, strict=True) if sum(weights))


@given(st.integers(-(10**8), 10**8), st.decimals(0, 100, places=4))
def test_inclusive_tax_is_part_of_the_price(amount, percentage):
    tax = tax_amount(amount, percentage, inclusive=True)
    assert abs(tax) <= abs(amount) and abs(tax_amount(amount - tax, percentage, inclusive=False) - tax) <= 1


def test_forms_are_read_strictly():
    values = decode("items[0][price]=p1&items[1][price]=p2&expand[]=a&expand[]=b.c&metadata[k]=&trial=")
    assert values == {"items": [{"price": "p1"}, {"price": "p2"}], "expand": ["a", "b.c"], "metadata": {"k": ""}, "trial": ""}
    params = Params(values)
    assert [row.text("price") for row in params.children("items")] == ["p1", "p2"]
    assert params.mapping("metadata", {"k": "old", "l": "kept"}) == {"l": "kept"}
    assert params.text("trial") is None and "trial" in params
    with pytest.raises(StripeError, match="unknown parameter: expand"):
        params.refuse_unread()


@pytest.mark.parametrize("text", ["a=1&a[b]=2", "a", "x[y]z=1&x=2", "&".join(f"f{i}=1" for i in range(1001))])
def test_malformed_forms_are_refused_or_read(text):
    try:
        assert isinstance(decode(text), dict)
    except StripeError as error:
        assert error.status == 400


@pytest.mark.parametrize("value", ["-1", "1e3", "99999999999999999999", "1.5", "٣"])
def test_bad_integers(value):
    with pytest.raises(StripeError):
        Params({"n": value}).integer("n", low=0)
