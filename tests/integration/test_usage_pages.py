"""The usage page and its API twin: sums by day of any zone, agent and key; forecast; cap; export; what is refused."""

from __future__ import annotations

import csv
import io
import random
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from django.core.management import CommandError, call_command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps.audit.models import AuditEntry
from apps.tenants.context import bound, bound_public
from apps.usage import accounts, rollups, selectors
from apps.usage.models import UsageEntry, UsageRollup
from apps.usage.services import usage_record
from tests.houses import House
from tests.integration.test_usage import rolled


@pytest.fixture(scope="module")
def house(database):
    with bound_public():
        made = House("usage")
    at = [datetime(2026, 3, 28, 22, 59, tzinfo=UTC), datetime(2026, 3, 28, 23, 1, tzinfo=UTC), datetime(2026, 3, 29, 21, 59, tzinfo=UTC),  # Berlin's day of 23 hours
          datetime(2026, 3, 29, 22, 1, tzinfo=UTC), datetime(2024, 2, 29, 12, 0, tzinfo=UTC), datetime(2026, 3, 29, 18, 45, tzinfo=UTC)]  # fmt: skip
    with bound(made.tenant):
        for number, when in enumerate(at):
            usage_record(session_id=made.session.id, turn_id=f"turn_d{number}", meters={"tokens_in": 10**number}, at=when, agent_id=made.agent.id, key_id=made.key.id)
    return made


def days(house: House, first: str, last: str, zone: str) -> dict[str, int]:
    answer = house.members["owner"].get("/api/v1/usage/breakdown", {"first": first, "last": last, "zone": zone})
    assert answer.status_code == 200, answer.content
    return {row["of"]: row["units"]["tokens_in"] for row in answer.json()["data"] if row["units"]}


@pytest.mark.parametrize("summed", [False, True])
def test_days_are_those_of_the_readers_zone(house, summed):
    if summed:
        with bound(house.tenant):
            rolled()
    assert days(house, "2026-03-28", "2026-03-30", "UTC") == {"2026-03-28": 11, "2026-03-29": 101100}
    assert days(house, "2026-03-28", "2026-03-30", "Europe/Berlin") == {"2026-03-28": 1, "2026-03-29": 100110, "2026-03-30": 1000}
    assert days(house, "2026-03-29", "2026-03-30", "Asia/Kolkata") == {"2026-03-29": 11, "2026-03-30": 101100}  # half an hour off
    assert days(house, "2024-02-28", "2024-03-01", "UTC") == {"2024-02-29": 10000}


ZONES = ["UTC", "Europe/Berlin", "America/New_York", "America/Havana", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Chatham", "Pacific/Apia"]
FIRST = date(2026, 1, 1)


@pytest.fixture(scope="module")
def year(database):
    """Entries all over a year, most of them at the hours at which clocks change; a part of them not yet in the sums."""
    with bound_public():
        made = House("year")
    rng = random.Random(7)
    with bound(made.tenant):
        for number in range(700):
            at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=rng.randrange(365), minutes=rng.choice([rng.randrange(1440), rng.randrange(90), 1439]))
            usage_record(session_id="sess_year", turn_id=f"turn_{number}", meters={"tokens_in": 2**rng.randrange(20)}, at=min(at, datetime.now(UTC)),
                         agent_id=rng.choice(["agt_a", "agt_b"]), key_id=rng.choice(["key_a", ""]))
            if number == 600:
                rolled()
    return made


@given(zone=st.sampled_from(ZONES), first=st.integers(0, 364), length=st.integers(1, 60) | st.just(300))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_days_of_any_zone_are_what_the_ledger_says(year, zone, first, length):
    """Days of 23 and 25 hours, zones half an hour and a quarter off, one whose clock changes by half an hour: each entry is in one day of the reader's."""
    span = selectors.Range(FIRST + timedelta(days=first), FIRST + timedelta(days=first + length - 1), zone)
    with bound(year.tenant):
        found = selectors.usage_of(span)
        by_day, by_agent, by_key = Counter(), Counter(), Counter()
        for at, agent, key, units in UsageEntry.objects.filter(meter="tokens_in").values_list("at", "agent_id", "key_id", "quantity"):
            if span.first <= (day := at.astimezone(ZoneInfo(zone)).date()) <= span.last:
                by_day[day] += units
                by_agent[agent] += units
                by_key[key] += units
        rows = list(csv.DictReader(selectors.usage_csv(span)))
    for part, expected in ((found.days, by_day), (found.agents, by_agent), (found.keys, by_key)):
        assert {of: units["tokens_in"] for of, units in part.items() if "tokens_in" in units} == expected
    assert list(found.days) == span.days
    assert found.totals.get("tokens_in", 0) == sum(by_day.values()) == sum(int(r["units"]) for r in rows if r["meter"] == "tokens_in")


def test_the_page_shows_what_was_used_and_by_whom(house):
    page = house.members["developer"].get(f"/t/{house.tenant.slug}/usage?first=2026-03-28&last=2026-03-30").content.decode()
    for shown in ("Tokens in", "101,111", 'role="img"', "<rect", house.agent.name, house.key.name, "This period"):
        assert shown in page, shown
    assert "Save</button>" not in page  # a developer sees the cap and does not set it
    export = house.members["developer"].get(f"/t/{house.tenant.slug}/usage.csv?first=2026-03-28&last=2026-03-30")
    rows = list(csv.DictReader(io.StringIO(b"".join(export.streaming_content).decode())))
    assert sum(int(r["units"]) for r in rows) == 101111 and {r["key_id"] for r in rows} == {house.key.id}
    entries = house.members["owner"].get("/api/v1/usage/entries", {"turn_id": "turn_d3"}).json()["data"]
    assert [(e["quantity"], e["agent_id"]) for e in entries] == [(1000, house.agent.id)]


def test_a_cap_is_set_in_the_page_and_by_api_and_leaves_a_line(house):
    owner, url = house.members["owner"], f"/t/{house.tenant.slug}/usage"
    now = datetime.now(UTC)
    with bound(house.tenant):
        accounts.account_set_terms(currency="eur", period_start=now - timedelta(days=1), period_end=now + timedelta(days=9), rates={"session_ms": (60_000, 60_000)},
                                   included={"session_ms": 400})  # fmt: skip
    assert owner.post(url, {"cap": "12.50", "alerts": "50, 90%"}).status_code == 302
    page = owner.get(url).content.decode()
    assert "12.50 EUR" in page and "Cost so far" in page and "Save</button>" in page
    spend = owner.get("/api/v1/usage/spend").json()
    assert (spend["cap_micros"], spend["alerts"], spend["spent_micros"]) == (12_500_000, [50, 90], 600)
    assert 8_000 < spend["forecast_micros"] < 10_000  # ten times as much less what is included
    answer = owner.put("/api/v1/usage/cap", {"cap_micros": None}, content_type="application/json")
    assert answer.status_code == 200 and answer.json()["cap_micros"] is None
    with bound(house.tenant):
        assert AuditEntry.objects.filter(action="cap.changed").count() == 2
    with bound_public():
        house.tenant.refresh_from_db()
        assert not house.tenant.capped
    for cap, alerts in (("-1", ""), ("1e99", ""), ("x", ""), ("5", "150"), ("5", "a")):
        owner.post(url, {"cap": cap, "alerts": alerts})
    assert owner.put("/api/v1/usage/cap", {"cap_micros": -1}, content_type="application/json").status_code == 400
    assert owner.get("/api/v1/usage/spend").json()["cap_micros"] is None


def test_bad_ranges_are_refused(house):
    owner = house.members["owner"]
    for query in ("first=x", "first=2026-03-02&last=2026-03-01", "zone=Mars/Base", "first=1900-01-01", "first=2020-01-01&last=2026-01-01", "zone=../etc/passwd"):
        assert owner.get(f"/api/v1/usage/breakdown?{query}").status_code == 400, query
        page = owner.get(f"/t/{house.tenant.slug}/usage?{query}")
        assert page.status_code == 200 and b'role="alert"' in page.content, query
    assert owner.get("/api/v1/usage/entries?after=x").status_code == 400


def test_months_without_billing_end_where_the_calendar_says():
    assert selectors.month_of(datetime(2024, 2, 29, 23, 59, tzinfo=UTC)) == (datetime(2024, 2, 1, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC))
    assert selectors.month_of(datetime(2026, 12, 31, 23, 59, tzinfo=UTC))[1] == datetime(2027, 1, 1, tzinfo=UTC)


def test_what_is_seen_is_never_behind_the_ledger(house):
    """The page adds what no roll has seen yet: zero seconds behind, with no worker at all."""
    with bound(house.tenant):
        before = rollups.totals().get("tokens_out", 0)
        usage_record(session_id="sess_now", turn_id="turn_now", meters={"tokens_out": 7})
        assert UsageEntry.objects.filter(turn_id="turn_now").exists()
    assert house.members["owner"].get("/api/v1/usage").json()["tokens_out"] == before + 7


def test_the_command_finds_and_mends_wrong_sums(house):
    with bound(house.tenant):
        rolled()
        UsageRollup.objects.filter(grain="hour").delete()
    with pytest.raises(CommandError, match="differ"), bound_public():
        call_command("usage", "verify", house.tenant.slug, stdout=io.StringIO())
    said = io.StringIO()
    with bound_public():
        call_command("usage", "rebuild", house.tenant.slug, stdout=said)
        call_command("usage", "verify", house.tenant.slug, stdout=said)
    assert "agree" in said.getvalue()
