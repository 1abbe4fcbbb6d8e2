"""Pure money: line amounts, prorations, discounts and taxes, in integer cents of one currency.

Stripe prorates to the second (docs.stripe.com/billing/subscriptions/prorations): a change at `at` inside [start, end) credits the
unused time of what was paid for and charges the remaining time of what comes, each line rounded by itself, half away from zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction


def half_up(value: Fraction) -> int:
    """Nearest integer; exact halves go away from zero, so that a credit mirrors its charge."""
    sign = -1 if value < 0 else 1
    return sign * ((2 * abs(value.numerator) + value.denominator) // (2 * value.denominator))


def line_amount(unit_amount: Decimal | int | str, quantity: int | Decimal) -> int:
    """Cents of `quantity` units at `unit_amount` cents (up to 12 decimal places), rounded once."""
    return half_up(Fraction(Decimal(unit_amount)) * Fraction(quantity))


def remaining_share(amount: Fraction | int, start: int, end: int, at: int) -> int:
    """What of `amount` for [start, end) belongs to [at, end). Raises ValueError when `at` lies outside or the period is empty."""
    if not start <= at <= end or start == end:
        raise ValueError(f"at={at}: expected a time within the period {start} to {end}")
    return half_up(Fraction(amount) * (end - at) / (end - start))


@dataclass(frozen=True)
class Holding:
    """`quantity` of a price during a period; `key` is the caller's name for it."""

    key: str
    unit_amount: Decimal
    quantity: int
    start: int
    end: int

    @property
    def amount(self) -> Fraction:
        return Fraction(self.unit_amount) * self.quantity


@dataclass(frozen=True)
class Proration:
    holding: Holding
    amount: int  # cents; negative = credit
    credit: bool


def prorations(before: list[Holding], after: list[Holding], at: int) -> list[Proration]:
    """Credits for unused time of what changed, then charges for the remaining time; what is equal in both is left alone."""
    credits = [Proration(h, -remaining_share(h.amount, h.start, h.end, at), True) for h in before if h not in after]
    charges = [Proration(h, remaining_share(h.amount, h.start, h.end, at), False) for h in after if h not in before]
    return credits + charges


def allocate(total: int, weights: list[int]) -> list[int]:
    """`total` cents over lines in proportion to `weights` (>= 0), summing exactly to `total`; the largest remainders get the odd cents."""
    whole = sum(weights)
    if whole == 0:
        return [0] * len(weights)
    shares = [total * w // whole for w in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: (-(total * weights[i] % whole), i))
    for index in by_remainder[: total - sum(shares)]:
        shares[index] += 1
    return shares


def tax_amount(amount: int, percentage: Decimal, inclusive: bool) -> int:
    """Cents of tax on `amount`: on top of it, or contained in it."""
    rate = Fraction(percentage) / 100
    return half_up(Fraction(amount) * rate / (1 + rate)) if inclusive else half_up(Fraction(amount) * rate)
