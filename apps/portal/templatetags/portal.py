from __future__ import annotations

import json

from django import template
from django.templatetags.static import static
from django.utils.html import format_html
from django.utils.safestring import mark_safe

register = template.Library()

TONES = {
    "active": "ok", "live": "ok live", "completed": "ok", "paid": "ok", "done": "ok", "verified": "ok", "ready": "ok",
    "rotated": "warn", "resting": "warn", "expired": "warn", "cancelled": "warn", "incomplete": "warn", "past_due": "warn", "open": "info", "draft": "info", "trialing": "info",
    "suspended": "bad", "revoked": "bad", "failed": "bad", "unpaid": "bad",
}  # fmt: skip


@register.simple_tag
def icon(name: str) -> str:
    """A symbol of static/portal/icons.svg; the words beside it say what it means."""
    return format_html('<svg class="icon" aria-hidden="true"><use href="{}#{}"></use></svg>', static("portal/icons.svg"), name)


@register.simple_tag
def badge(state: str, words: str = "") -> str:
    """A state as a badge whose tone follows TONES."""
    return format_html('<span class="badge {}">{}</span>', TONES.get(str(state), ""), words or str(state).replace("_", " "))


@register.filter
def seconds(ms: int | float | None) -> str:
    """Milliseconds as a person reads a duration: 4.2 s, 3 min 05 s, 2 h 10 min."""
    whole = (ms or 0) / 1000
    if whole < 60:
        return f"{whole:.1f} s"
    minutes, rest = divmod(round(whole), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


@register.filter
def words(name: str) -> str:
    """audio_minutes_per_day -> audio minutes per day"""
    return str(name).replace("_", " ")


@register.filter
def of(values: dict, name: str):
    """The value under a name that is only known at run time; None where there is none."""
    return values.get(name)


@register.filter
def as_json(value) -> str:
    return json.dumps(value, ensure_ascii=False)


@register.filter
def meter_name(meter: str) -> str:
    """audio_in_ms -> Audio in"""
    return words(meter.removesuffix("_ms")).capitalize()


@register.filter
def meter_value(total: int, meter: str) -> str:
    """A duration for meters in milliseconds, else the number with its thousands apart."""
    return seconds(total) if meter.endswith("_ms") else f"{total:,}"


@register.simple_tag
def bars(chart: dict) -> str:
    """Bars of a chart (apps/portal/views/usage.py: chart) as SVG. Made here, of numbers and days alone: a year of days is thousands of elements."""
    meter = chart["meter"]
    return mark_safe("".join(
        f'<rect x="{b["x"]}" y="{b["y"]}" width="{b["width"]}" height="{b["height"]}" fill="var(--accent)"><title>{b["day"]}: {meter_value(b["units"], meter)}</title></rect>'
        for b in chart["bars"] if b["units"]
    ))  # fmt: skip


@register.simple_tag
def day_rows(days: list) -> str:
    """Rows of a table: the day, then the units of each meter. `days`: [(day, [(meter, units)])]."""
    return mark_safe("".join(
        f'<tr><th scope="row" class="nowrap">{day}</th>{"".join(f"""<td class="number">{meter_value(units, meter)}</td>""" for meter, units in cells)}</tr>'
        for day, cells in days
    ))  # fmt: skip


@register.filter
def money(cents: int, currency: str) -> str:
    """4900, usd -> 49.00 USD"""
    return f"{cents / 100:,.2f} {currency.upper()}"


@register.filter
def micros(amount: int | None, currency: str) -> str:
    """1250000, eur -> 1.25 EUR"""
    return f"{(amount or 0) / 10**6:,.2f} {currency.upper()}".strip()
