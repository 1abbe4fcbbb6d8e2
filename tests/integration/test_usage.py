"""The ledger, its sums, billing periods, and sessions that race one cap: on a real database, with real concurrency."""

from __future__ import annotations

import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps.common.actors import SYSTEM
from apps.common.errors import BadRequest, Conflict, NotFound
from apps.tenants.context import Bound, bound, bound_public, current
from apps.tenants.services import tenant_create
from apps.usage import accounts, journal, rollups
from apps.usage.models import Account, PeriodTotal, Reservation, UsageEntry, UsagePending, UsageRollup
from apps.usage.money import cost_micros, line_micros
from apps.usage.reservations import release, reserve
from apps.usage.services import usage_record

MINUTE = {"session_ms": (50_000, 60_000)}  # 5 cents a minute
MARCH = datetime(2026, 3, 1, tzinfo=UTC)
APRIL = datetime(2026, 4, 1, tzinfo=UTC)


@pytest.fixture
def tenant(database):
    with bound_public():
        made = tenant_create(name="Metered", slug=f"metered-{os.getpid()}-{time.time_ns() % 10**9}")
    with bound(made):
        yield made


def in_threads(tenant, jobs, workers: int = 16):
    """Run the functions at once, each with a connection and a binding of its own."""
    def run(job):
        try:
            with bound(tenant):
                return job()
        finally:
            connection.close()

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(run, jobs))


def rolled() -> None:
    """Everything that waits is in the sums, also what another process was adding."""
    with transaction.atomic(), connection.cursor() as cursor:
        rollups.lock(cursor)
        while rollups.roll_step(cursor):
            pass


def ledger(period: int | None = None) -> dict[str, int]:
    found: dict[str, int] = {}
    rows = UsageEntry.objects.filter(**({"period": period} if period else {}))
    for meter, quantity in rows.values_list("meter", "quantity"):
        found[meter] = found.get(meter, 0) + quantity
    return found


def test_sums_equal_the_ledger_in_any_order_with_duplicates(tenant):
    """Turns arrive shuffled, twice, days late, from threads, while another one rolls: sums by step, sums made anew and ledger agree."""
    rng = random.Random(11)
    starts = datetime(2024, 2, 28, 23, 58, tzinfo=UTC)  # over a leap day, a month's end and the hour of a time change
    days = [starts, starts + timedelta(days=1), datetime(2024, 3, 31, 0, 59, 59, tzinfo=UTC)]
    turns = [(f"sess_{n % 9}", f"turn_{n}", {"tokens_in": rng.randrange(900), "audio_out_ms": rng.randrange(1, 9000)}, rng.choice(["agt_a", "agt_b"]),
              rng.choice(days) + timedelta(seconds=rng.randrange(7200))) for n in range(300)]  # fmt: skip
    calls = turns + rng.sample(turns, 150)
    rng.shuffle(calls)
    stop = threading.Event()

    def roll_on() -> None:
        while not stop.is_set():
            rollups.roll()
            time.sleep(0.01)

    def write(call):
        session_id, turn_id, meters, agent_id, at = call
        usage_record(session_id=session_id, turn_id=turn_id, meters=meters, agent_id=agent_id, key_id="key_a", at=at)
        assert rollups.totals()  # what is read while sums grow is never torn; see the end

    with ThreadPoolExecutor(1) as roller:
        rolling = roller.submit(lambda: in_threads(tenant, [roll_on], 1))
        in_threads(tenant, [lambda c=c: write(c) for c in calls])
        stop.set()
        rolling.result()
    expected = {m: sum(t[2][m] for t in turns) for m in ("tokens_in", "audio_out_ms")}
    assert ledger() == expected == rollups.totals()
    assert rollups.differences() == []
    rolled()
    assert not UsagePending.objects.exists() and rollups.differences() == []
    by_step = set(UsageRollup.objects.values_list("grain", "starts", "agent_id", "key_id", "meter", "quantity", "entries"))
    assert rollups.rebuild() == UsageEntry.objects.count()
    assert set(UsageRollup.objects.values_list("grain", "starts", "agent_id", "key_id", "meter", "quantity", "entries")) == by_step
    UsageRollup.objects.filter(grain="day", meter="tokens_in").update(quantity=1)
    assert {row["grain"] for row in rollups.differences()} == {"day"}


CALLS = st.lists(st.one_of(
    st.tuples(st.integers(0, 12), st.sampled_from(["agt_a", ""]), st.dictionaries(st.sampled_from(["tokens_in", "audio_out_ms", "requests"]), st.integers(0, 10**6), max_size=3),
              st.integers(0, 4 * 24 * 60)),
    st.sampled_from(["roll", "step", "close"])), max_size=25)  # fmt: skip


@pytest.fixture(scope="module")
def one(database):
    with bound_public():
        return tenant_create(name="Metered", slug=f"property-{os.getpid()}-{time.time_ns() % 10**9}")


@given(calls=CALLS)
@settings(max_examples=int(os.environ.get("ROLLUP_EXAMPLES", "40")), deadline=None, suppress_health_check=list(HealthCheck))
def test_sums_grown_step_by_step_are_those_made_anew(one, calls):
    """Whatever comes: turns again and in any order, of any minute of four days, sums grown by one entry or by all, periods that end."""
    with bound(one):
        expected, session_id = rollups.totals(), f"sess_{time.time_ns()}"
        seen: set[tuple[int, str]] = set()
        for call in calls:
            if call == "roll":
                rollups.roll()
            elif call == "step":
                with transaction.atomic(), connection.cursor() as cursor:
                    rollups.lock(cursor)
                    rollups.roll_step(cursor, limit=1)
            elif call == "close":
                accounts.period_close(ends=datetime.now(UTC))
            else:
                turn, agent, meters, minute = call
                at = datetime(2024, 2, 27, tzinfo=UTC) + timedelta(minutes=minute)
                usage_record(session_id=session_id, turn_id=f"turn_{turn}", meters=meters, agent_id=agent, at=at)
                for meter, units in meters.items():
                    if units and (turn, meter) not in seen:
                        seen.add((turn, meter))
                        expected[meter] = expected.get(meter, 0) + units
        assert rollups.totals() == expected and rollups.differences() == []
        rolled()
        sums = [set(model.objects.values_list(*fields)) for model, fields in SUMS]
        rollups.rebuild()
        assert [set(model.objects.values_list(*fields)) for model, fields in SUMS] == sums and rollups.differences() == []


SUMS = ((UsageRollup, ("grain", "starts", "agent_id", "key_id", "meter", "quantity", "entries")), (PeriodTotal, ("period", "meter", "quantity", "entries")))


def test_money_is_exact_and_the_same_in_python_and_sql(tenant):
    assert line_micros(1, (50_000, 60_000)) == 1 and line_micros(60_000, (50_000, 60_000)) == 50_000
    assert line_micros(3, (1, 2)) == 2 and line_micros(2, (1, 5)) == 0 and line_micros(10, 7, included=4) == 42
    rng = random.Random(3)
    accounts.account_ready()
    for _ in range(200):
        rates = {m: [rng.randrange(10**6), rng.choice([1, 3, 7, 1000, 60_000])] for m in ("session_ms", "tokens_in", "characters")}
        included = {m: rng.randrange(10**5) for m in rng.sample(list(rates), 2)}
        used = {m: rng.randrange(10**rng.randrange(1, 12)) for m in rates}
        cost = cost_micros(used, rates, included)
        Account.objects.filter(pk=1).update(rates=rates, included=included, used={}, held={}, plan_cap_micros=cost)
        assert reserve(session_id="sess_x", units=used)
        Account.objects.filter(pk=1).update(held={}, plan_cap_micros=cost - 1)
        assert not cost or not reserve(session_id="sess_x", units=used)


def test_a_period_closes_between_entries_never_beside_them(tenant):
    """32 threads write while periods are closed: each entry lies in one period, and what a period said when it closed stays true."""
    accounts.account_set_terms(currency="usd", period_start=MARCH, period_end=APRIL, rates=MINUTE, included={})
    closed = []

    def close(number: int):
        time.sleep(0.05 * number)
        closed.append(accounts.period_close(ends=APRIL + timedelta(days=number)))

    jobs = [lambda n=n: usage_record(session_id="sess_a", turn_id=f"turn_{n}", meters={"session_ms": 10 + n}) for n in range(400)]
    for number in range(3):
        jobs.insert(100 * (number + 1), lambda number=number: close(number))
    in_threads(tenant, jobs, 32)
    assert sorted(c.number for c in closed) == [1, 2, 3]
    for period in closed:
        assert period.totals == ledger(period.number) == accounts.period_totals(period.number)
    assert sum(p.totals.get("session_ms", 0) for p in closed) + accounts.period_totals(4).get("session_ms", 0) == sum(10 + n for n in range(400))
    assert rollups.differences() == []


def test_closing_twice_is_closing_once_and_clocks_do_not_go_back(tenant):
    accounts.account_set_terms(currency="EUR", period_start=MARCH, period_end=APRIL, rates=MINUTE, included={"session_ms": 60_000})
    usage_record(session_id="sess_a", turn_id="turn_1", meters={"session_ms": 90_000})
    first = accounts.period_close(ends=APRIL)
    usage_record(session_id="sess_a", turn_id="turn_2", meters={"session_ms": 5}, at=MARCH)  # late: the next period's
    again = accounts.period_close(ends=APRIL)
    assert (again.number, again.totals) == (first.number, first.totals) == (1, {"session_ms": 90_000})
    assert accounts.period_totals(2) == {"session_ms": 5} and accounts.account_spend().period == 2
    with pytest.raises(Conflict):
        accounts.period_close(ends=MARCH)
    with pytest.raises(NotFound):
        accounts.period_totals(3)
    with pytest.raises(BadRequest):
        accounts.account_set_terms(currency="eur", period_start=APRIL, period_end=MARCH, rates={}, included={})
    with pytest.raises(BadRequest):
        accounts.account_set_terms(currency="eur", period_start=MARCH, period_end=APRIL, rates={"session_ms": -1}, included={})
    accounts.account_set_terms(currency="usd", period_start=APRIL, period_end=APRIL + timedelta(days=30), rates=MINUTE, included={"session_ms": 3})
    usage_record(session_id="sess_a", turn_id="turn_3", meters={"session_ms": 60_000})
    with pytest.raises(Conflict, match="usage in usd"):
        accounts.account_set_terms(currency="gbp", period_start=APRIL, period_end=APRIL + timedelta(days=30), rates=MINUTE, included={})


def test_fifty_sessions_race_one_balance(tenant):
    """Each holds a second at a time and uses all or part of it while sums grow: together they never pass the cap, and use it up to one second."""
    second = {"session_ms": 1000}
    accounts.account_set_terms(currency="usd", period_start=MARCH, period_end=APRIL, rates=MINUTE, included={"session_ms": 20_000})
    cap = line_micros(321_500, MINUTE["session_ms"], 20_000)
    accounts.account_set_cap(cap_micros=cap, alerts=[50], actor=SYSTEM)
    rng = random.Random(5)

    def session(number: int, part: int) -> int:
        name, used, turn = f"sess_{number}", 0, 0
        while reserve(session_id=name, units=second):
            used += part
            turn += 1
            usage_record(session_id=name, turn_id=f"turn_{number}_{turn}", meters={"session_ms": part})
            if rng.random() < 0.2:
                rollups.roll()
            assert accounts.account_spend().spent_micros <= cap
        release(session_id=name)
        return used

    used = sum(in_threads(tenant, [lambda n=n: session(n, 700 if n % 3 else 1000) for n in range(50)], 12))
    rolled()
    account = accounts.account_get()
    assert account.used == {"session_ms": used} and account.held == {} and not Reservation.objects.exists()
    while reserve(session_id="sess_last", units=second):  # what the others gave back
        usage_record(session_id="sess_last", turn_id=f"turn_{used}", meters={"session_ms": 1000})
        used += 1000
    assert 320_500 < used <= 321_500
    assert cap - line_micros(1000, MINUTE["session_ms"]) <= accounts.account_spend().spent_micros <= cap
    assert rollups.differences() == []


def test_what_is_used_and_not_yet_in_the_sums_is_shown_once(tenant):
    """Between a turn's entries and the next roll the session still holds what it used: spent and held together stay what they were."""
    accounts.account_set_terms(currency="usd", period_start=MARCH, period_end=APRIL, rates=MINUTE, included={})
    accounts.account_set_cap(cap_micros=50_000, alerts=[], actor=SYSTEM)
    assert reserve(session_id="sess_a", units={"session_ms": 60_000})
    with transaction.atomic(), connection.cursor() as cursor:
        rollups.lock(cursor)  # nobody rolls
        usage_record(session_id="sess_a", turn_id="turn_1", meters={"session_ms": 36_000})
        spend = accounts.account_spend()
    assert (spend.spent_micros, spend.held_micros) == (30_000, 20_000)
    release(session_id="sess_a")
    rolled()
    spend = accounts.account_spend()
    assert (spend.spent_micros, spend.held_micros) == (30_000, 0)


def test_a_silent_session_gives_back_what_it_held(tenant):
    accounts.account_set_terms(currency="usd", period_start=MARCH, period_end=APRIL, rates=MINUTE, included={})
    accounts.account_set_cap(cap_micros=50_000, alerts=[], actor=SYSTEM)
    assert reserve(session_id="sess_dead", units={"session_ms": 60_000})
    assert not reserve(session_id="sess_b", units={"session_ms": 1000})
    usage_record(session_id="sess_dead", turn_id="turn_1", meters={"session_ms": 30_000})
    Reservation.objects.update(expires_at=MARCH)
    rolled()
    assert accounts.account_get().held == {}
    assert reserve(session_id="sess_b", units={"session_ms": 30_000}) and not reserve(session_id="sess_b", units={"session_ms": 1000})
    for units in ({"session_ms": -1}, {"session_ms": 10**13}, {"minutes": 1}):
        with pytest.raises(BadRequest):
            reserve(session_id="sess_b", units=units)


def test_a_call_whose_gateway_died_is_written_once_by_another_process(tenant):
    call = {"session_id": f"req_{time.time_ns()}", "turn_id": "", "meters": {"requests": 1, "characters": 40}, "agent_id": "agt_1", "key_id": "key_1", "at": time.time()}
    erased = Bound("ten_gone", "t_gone_away", "gone")
    with closing(journal.connection()) as redis:
        journal.call_keep(redis, current(), call)
        journal.call_keep(redis, erased, call | {"session_id": "req_of_an_erased_workspace"})
        assert journal.replay(redis, older_than_s=60) == 0
        usage_record(**{**call, "at": None})  # its gateway wrote it, and died before it said so
        assert journal.replay(redis, older_than_s=0) == 2 and journal.replay(redis, older_than_s=0) == 0
        assert redis.hdel(journal.REFUSED, "req_of_an_erased_workspace") == 1
    assert ledger() == {"requests": 1, "characters": 40}


def test_two_ends_of_a_session_count_as_the_first(tenant):
    from apps.conversations.models import VoiceSession
    from apps.usage.services import session_end, session_open

    session_open(session_id="sess_two_ends", agent_id="", agent_version=0, key_id="", model="default", client="test")
    for lasted in (5000, 9000, 4000):  # its gateway, then one that cleared it away, then a late copy
        session_end(session_id="sess_two_ends", reason="client", session_ms=lasted)
    assert VoiceSession.objects.get(pk="sess_two_ends").session_ms == 5000 == ledger()["session_ms"]
