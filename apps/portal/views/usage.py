"""What the workspace used and what it will cost; the spend cap."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_safe

from apps.agents.models import Agent
from apps.apikeys.models import ApiKey
from apps.common.errors import BadRequest
from apps.portal.forms import SpendCap
from apps.portal.views.access import in_workspace
from apps.usage import selectors
from apps.usage.accounts import account_set_cap
from apps.usage.models import Meter

DAYS = 30
WIDTH, HEIGHT = 720, 120  # of a chart, in its own units


def _span(request: HttpRequest) -> selectors.Range:
    """`first` and `last` (days) and `zone` of the query; the last 30 days in UTC. Raises BadRequest."""
    zone = request.GET.get("zone", "UTC")[:60] or "UTC"
    today = timezone.now().date()
    try:
        last = date.fromisoformat(request.GET.get("last") or today.isoformat())
        first = date.fromisoformat(request.GET.get("first") or (last - timedelta(days=DAYS - 1)).isoformat())
    except (ValueError, OverflowError) as error:
        raise BadRequest("first and last: days as 2026-03-31", param="first") from error
    return selectors.Range(first, last, zone)


def chart(days: dict[date, dict[str, int]], meter: str) -> dict[str, Any]:
    """Bars of one meter over the days, for templates/portal/_usage_chart.html."""
    most = max((units.get(meter, 0) for units in days.values()), default=0)
    step = WIDTH / max(1, len(days))
    bars = [{"day": day, "units": units.get(meter, 0), "x": round(n * step, 2), "y": round(HEIGHT - (h := HEIGHT * units.get(meter, 0) / (most or 1)), 2),
             "width": round(max(0.5, step - 1.5), 2), "height": round(h, 2)} for n, (day, units) in enumerate(days.items())]  # fmt: skip
    return {"meter": meter, "most": most, "bars": bars, "total": sum(b["units"] for b in bars)}


def _named(rows: dict[str, dict[str, int]], names: dict[str, str], meters: list[str]) -> list[tuple[str, str, list[tuple[str, int]]]]:
    """(id, name, [(meter, units)]), those used most first."""
    listed = [(i, names.get(i, i or "none"), [(m, units.get(m, 0)) for m in meters]) for i, units in rows.items()]
    return sorted(listed, key=lambda row: -sum(units for _, units in row[2]))[:200]


@in_workspace("usage.read", write="billing.write")
@require_http_methods(["GET", "HEAD", "POST"])
def usage(request: HttpRequest, tenant) -> HttpResponse:
    if request.method == "POST":
        return _save_cap(request, tenant)
    problem = ""
    try:
        span = _span(request)
    except BadRequest as error:
        today = timezone.now().date()
        span, problem = selectors.Range(today - timedelta(days=DAYS - 1), today), error.message
    found = selectors.usage_of(span)
    meters = [m for m in Meter.values if m in found.totals]
    forecast = selectors.forecast()
    spend = forecast.spend
    form = SpendCap(initial={"cap": spend.cap_micros and spend.cap_micros / 10**6, "alerts": spend.alerts or [50, 80, 100]})
    values = {
        "tenant": tenant, "span": span, "problem": problem, "totals": [(m, found.totals[m]) for m in meters], "meters": meters,
        "charts": [chart(found.days, m) for m in meters], "days": [(d, [(m, u.get(m, 0)) for m in meters]) for d, u in reversed(found.days.items())],
        "agents": _named(found.agents, dict(Agent.objects.values_list("id", "name")), meters),
        "keys": _named(found.keys, dict(ApiKey.objects.filter(tenant_id=tenant.id).values_list("id", "name")), meters),
        "unbilled": selectors.unbilled_of(span), "running_ms": selectors.running_ms(), "forecast": forecast, "spend": spend, "form": form,
        "may_write": request.actor.can("billing.write"), "query": request.GET.urlencode(), "now": timezone.now(),
    }  # fmt: skip
    return render(request, "portal/_usage.html" if "HX-Request" in request.headers else "portal/usage.html", values)


def _save_cap(request: HttpRequest, tenant) -> HttpResponse:
    form = SpendCap(request.POST)
    if not form.is_valid():
        messages.error(request, "; ".join(f"{name}: {' '.join(problems)}" for name, problems in form.errors.items()))
        return redirect("usage", slug=tenant.slug)
    account_set_cap(cap_micros=form.cap_micros, alerts=form.cleaned_data["alerts"], actor=request.actor)
    messages.success(request, "Saved. Live sessions follow within seconds.")
    return redirect("usage", slug=tenant.slug)


@in_workspace("usage.read")
@require_safe
def usage_export(request: HttpRequest, tenant) -> HttpResponse:
    span = _span(request)
    lines = list(selectors.usage_csv(span))  # read whole here: a streamed answer would be read after the tenant is unbound
    answer = StreamingHttpResponse(lines, content_type="text/csv; charset=utf-8")
    answer["Content-Disposition"] = f'attachment; filename="usage-{tenant.slug}-{span.first}-{span.last}.csv"'
    return answer
