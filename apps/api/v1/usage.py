from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

from django.http import HttpResponse
from ninja import Field, Router

from apps.api.v1.base import Body, Limit, Page, Schema, answers, file_answer, needs, page
from apps.common.errors import BadRequest
from apps.usage import selectors
from apps.usage.accounts import account_set_cap
from apps.usage.models import UsageEntry
from apps.usage.rollups import totals

router = Router()
METERS = "meter -> whole units (milliseconds, tokens, characters, calls)"
EXAMPLE = {"session_ms": 184200, "audio_in_ms": 61000, "tokens_in": 5120}


class Row(Schema):
    of: str = Field(description="the day, or the id of the agent or key", examples=["2026-03-29"])
    units: dict[str, int] = Field(description=METERS, examples=[EXAMPLE])


class Breakdown(Schema):
    first: date
    last: date
    zone: str
    by: str
    data: list[Row]
    totals: dict[str, int] = Field(description=METERS, examples=[EXAMPLE])
    unbilled: dict[str, int] = Field(description="work that no client got; in no sum and on no invoice", examples=[{"tokens_out": 12}])


class SpendLine(Schema):
    meter: str
    units: int
    included: int
    micros: int = Field(description="millionths of the currency")
    forecast_units: int
    forecast_micros: int


class SpendOut(Schema):
    currency: str = Field(examples=["eur"])
    period: int
    starts: datetime
    ends: datetime
    spent_micros: int
    held_micros: int = Field(description="held by live sessions ahead of its use")
    forecast_micros: int
    cap_micros: int | None = Field(description="of the workspace")
    plan_cap_micros: int | None = Field(description="of its plan: 0 allows only what is included")
    alerts: list[int]
    lines: list[SpendLine]


class CapIn(Body):
    cap_micros: int | None = Field(description="for each billing period, millionths of the currency; null takes the cap away", examples=[50_000_000])
    alerts: list[int] = Field([50, 80, 100], description="per cent of the cap at which owners and billing members get mail", examples=[[50, 80, 100]])


class LedgerEntry(Schema):
    id: int
    session_id: str
    turn_id: str
    meter: str
    quantity: int
    agent_id: str
    key_id: str
    period: int
    at: datetime


def _span(first: str | None, last: str | None, zone: str) -> selectors.Range:
    try:
        end = date.fromisoformat(last) if last else datetime.now(UTC).date()
        start = date.fromisoformat(first) if first else end - timedelta(days=29)
    except (ValueError, OverflowError) as error:
        raise BadRequest("first and last: days as 2026-03-31", param="first") from error
    return selectors.Range(start, end, zone)


@router.get("", response=answers(200, dict[str, int]), summary="What was used since the workspace began, by meter")
@needs("usage.read")
def usage(request):
    return 200, totals()


@router.get("breakdown", response=answers(200, Breakdown), summary="What was used in a range of days, by day, agent or key")
@needs("usage.read")
def breakdown(request, by: Literal["day", "agent", "key"] = "day", first: str | None = None, last: str | None = None, zone: str = "UTC"):
    span = _span(first, last, zone)
    found = selectors.usage_of(span)
    rows = [{"of": str(of), "units": units} for of, units in found.by(by).items()]
    return 200, {"first": span.first, "last": span.last, "zone": span.zone, "by": by, "data": rows, "totals": found.totals, "unbilled": selectors.unbilled_of(span)}


@router.get("csv", response=answers(200), summary="The same by day, agent, key and meter, as CSV", openapi_extra=file_answer("text/csv"))
@needs("usage.read")
def export(request, first: str | None = None, last: str | None = None, zone: str = "UTC"):
    return HttpResponse("".join(selectors.usage_csv(_span(first, last, zone))), content_type="text/csv; charset=utf-8")


@router.get("entries", response=answers(200, Page[LedgerEntry]), summary="Entries of the ledger, newest first")
@needs("usage.read")
def entries(request, limit: int = Limit(), after: str | None = None, session_id: str = "", turn_id: str = ""):
    rows = UsageEntry.objects.all()
    for name, value in (("session_id", session_id), ("turn_id", turn_id)):
        if value:
            rows = rows.filter(**{name: value.replace("\0", "")[:64]})
    if after and not (after.isascii() and after.isdigit() and len(after) < 19):
        raise BadRequest(f"after={after[:60]!r}: not a cursor of ours", param="after")
    return 200, page(rows, order="-id", after=after, limit=limit)


@router.get("spend", response=answers(200, SpendOut), summary="What the open period cost so far and will cost at its end; the spend cap")
@needs("usage.read")
def spend(request):
    return 200, _spend()


@router.put("cap", response=answers(200, SpendOut), summary="Set the spend cap and its alerts")
@needs("billing.write")
def cap(request, body: CapIn):
    account_set_cap(cap_micros=body.cap_micros, alerts=body.alerts, actor=request.actor)
    return 200, _spend()


def _spend() -> dict[str, Any]:
    forecast = selectors.forecast()
    names = ("currency", "period", "spent_micros", "held_micros", "cap_micros", "plan_cap_micros", "alerts")
    values = {name: getattr(forecast.spend, name) for name in names}
    return {**values, "starts": forecast.starts, "ends": forecast.ends, "forecast_micros": forecast.forecast_micros, "lines": list(forecast.lines)}
