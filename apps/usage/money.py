"""What usage costs, in integer micro-units of the currency: rounded once for each meter, as on an invoice line.

A rate is a pair of integers, micro-units for so many units, so that prices by the minute of a meter in milliseconds stay exact.
"""

from __future__ import annotations

from collections.abc import Mapping

from apps.common.errors import BadRequest
from apps.usage.ledger import check_meters

Rate = int | tuple[int, int]  # micro-units a unit, or (micro-units, units)
LARGEST_MICROS = 10**15


def check_rates(rates: Mapping[str, Rate]) -> dict[str, list[int]]:
    """meter -> [micro-units, units]. Raises BadRequest."""
    check_meters(dict.fromkeys(rates, 0))
    checked = {}
    for meter, rate in rates.items():
        micros, units = rate if isinstance(rate, (tuple, list)) else (rate, 1)
        if not (type(micros) is type(units) is int and 0 <= micros <= LARGEST_MICROS and 1 <= units <= LARGEST_MICROS):
            raise BadRequest(f"rate of {meter}: {str(rate)[:40]} is not micro-units (0 or more) for so many units (1 or more)", param="rates")
        checked[meter] = [micros, units]
    return checked


def line_micros(quantity: int, rate: Rate | list[int], included: int = 0) -> int:
    """The cost of one meter, halves rounded up."""
    micros, units = (rate, 1) if isinstance(rate, int) else rate
    return (2 * max(0, quantity - included) * micros + units) // (2 * units)


def cost_micros(used: Mapping[str, int], rates: Mapping[str, Rate | list[int]], included: Mapping[str, int]) -> int:
    return sum(line_micros(used.get(meter, 0), rate, included.get(meter, 0)) for meter, rate in rates.items())


# The same in SQL, over columns `rates` and `included` and a jsonb of units.
COST = """(SELECT coalesce(sum(div(2 * greatest(coalesce(({units} ->> r.key)::numeric, 0) - coalesce((included ->> r.key)::numeric, 0), 0)
    * (r.value ->> 0)::numeric + (r.value ->> 1)::numeric, 2 * (r.value ->> 1)::numeric)), 0) FROM jsonb_each(rates) AS r)"""
# Two jsonb maps of units, added
ADD = """(SELECT coalesce(jsonb_object_agg(key, units), '{{}}') FROM (SELECT key, sum(value::bigint) AS units FROM (
    SELECT * FROM jsonb_each_text({a}) UNION ALL SELECT * FROM jsonb_each_text({b})) AS both_maps GROUP BY key) AS added)"""
