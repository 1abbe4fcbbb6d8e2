"""The one place that writes the ledger, and what may be written."""

from __future__ import annotations

from datetime import datetime

from django.db import connection, transaction
from django.utils import timezone

from apps.common.errors import BadRequest
from apps.tenants.context import current
from apps.usage.models import Account, Meter, OpenPeriod, UnbilledEntry

LARGEST = 10**12  # units in one entry: 31 years of audio

# The period's row is held until the transaction ends, so that a period is closed before this entry or after it, never beside it.
_WRITE = """
WITH open AS (SELECT number FROM usage_openperiod WHERE id = 1 FOR KEY SHARE),
written AS (
    INSERT INTO usage_usageentry (session_id, turn_id, meter, quantity, agent_id, key_id, at, period)
    SELECT %(session_id)s, %(turn_id)s, meter, quantity, %(agent_id)s, %(key_id)s, %(at)s, open.number
    FROM open, unnest(%(meters)s::text[], %(quantities)s::bigint[]) AS used (meter, quantity)
    ON CONFLICT (session_id, turn_id, meter) DO NOTHING
    RETURNING id, session_id
)
INSERT INTO usage_usagepending (entry_id, session_id) SELECT id, session_id FROM written
"""
_opened: set[str] = set()  # tenants whose rows this process knows to be there


def entries_write(*, session_id: str, turn_id: str, meters: dict[str, int], agent_id: str = "", key_id: str = "", at: datetime | None = None) -> None:
    """Write what a turn used, once: a second call with the same turn changes nothing. Zero is not written. `at`: when it was used,
    at most now (the roll-ups count it there; the billing period is the one open now). Raises BadRequest."""
    check_meters(meters)
    used = {m: q for m, q in meters.items() if q}
    if not used:
        return
    account_ready()
    values = {"session_id": session_id, "turn_id": turn_id, "agent_id": agent_id, "key_id": key_id, "at": _when(at),
              "meters": list(used), "quantities": list(used.values())}  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(_WRITE, values)


def unbilled_record(*, session_id: str, turn_id: str, meters: dict[str, int], agent_id: str = "", key_id: str = "", at: datetime | None = None) -> None:
    """Write, apart from the ledger, what a turn cost us and the client never got. Raises BadRequest."""
    check_meters(meters)
    who = {"session_id": session_id, "turn_id": turn_id, "agent_id": agent_id, "key_id": key_id, "at": _when(at)}
    UnbilledEntry.objects.bulk_create([UnbilledEntry(meter=m, quantity=q, **who) for m, q in meters.items() if q], ignore_conflicts=True)


def _when(at: datetime | None) -> datetime:
    now = timezone.now()
    return min(at, now) if at else now


def check_meters(meters: dict[str, int]) -> None:
    """Raises BadRequest for a meter we do not have, and for quantities that no turn can use."""
    for meter, quantity in meters.items():
        if meter not in Meter.values:
            raise BadRequest(f"no meter {str(meter)[:40]!r}; there are {', '.join(Meter.values)}", param="meters")
        if isinstance(quantity, bool) or not isinstance(quantity, int) or not 0 <= quantity <= LARGEST:
            raise BadRequest(f"{meter}={str(quantity)[:40]}: a whole number from 0 to {LARGEST}", param="meters")


def account_ready() -> None:
    """Make the rows that stand for the bound tenant's account, once."""
    tenant_id = current().tenant_id
    if tenant_id not in _opened:
        OpenPeriod.objects.bulk_create([OpenPeriod()], ignore_conflicts=True)
        Account.objects.bulk_create([Account()], ignore_conflicts=True)
        transaction.on_commit(lambda: _opened.add(tenant_id))


def account_get() -> Account:
    account_ready()
    return Account.objects.get(pk=1)
