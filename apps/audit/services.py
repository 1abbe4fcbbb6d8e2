"""The audit log: one line per change, in the same transaction, chained by hashes."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection, transaction
from django.utils import timezone

from apps.audit.models import AuditEntry
from apps.common.actors import Actor, origin
from apps.common.errors import BadRequest

LOCK = 0x766F_6963  # advisory lock class: one writer of a chain at a time
GENESIS = "0" * 64
# Where a chain goes on: after its head, unless a process of an older release wrote lines and no head
LAST = """
SELECT seq, digest FROM (SELECT seq, digest FROM public.vivavoce_audit_heads WHERE chain = current_schema()
UNION ALL (SELECT seq, digest FROM audit_auditentry ORDER BY seq DESC LIMIT 1)) AS ends ORDER BY seq DESC LIMIT 1
"""
CHAINED = ("id", "seq", "actor", "key_id", "ip", "request_id", "action", "target", "before", "after", "previous")


def audit_record(*, actor: Actor, action: str, target: str, before: dict[str, Any] | None = None, after: dict[str, Any] | None = None) -> AuditEntry:
    """Write one line, in the caller's transaction and schema. Secrets never belong in `before` and `after`."""
    where = origin()
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s, hashtext(current_schema()))", [LOCK])
            cursor.execute(LAST)
            last = cursor.fetchone() or (0, GENESIS)
        entry = AuditEntry(seq=last[0] + 1, at=timezone.now(), actor=actor.id, key_id=actor.key_id, ip=where.ip, request_id=where.request_id,
                           action=action, target=target[:60], before=before or {}, after=after or {}, previous=last[1])  # fmt: skip
        entry.digest = digest(entry)
        entry.save(force_insert=True)
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO public.vivavoce_audit_heads AS h VALUES (current_schema(), %s, %s) ON CONFLICT (chain) DO UPDATE "
                           "SET seq = excluded.seq, digest = excluded.digest", [entry.seq, entry.digest])  # fmt: skip
    return entry


def _head(cursor) -> tuple[int, str] | None:
    """(seq, digest) of the last line of the bound schema's chain, kept apart from the chain."""
    cursor.execute("SELECT seq, digest FROM public.vivavoce_audit_heads WHERE chain = current_schema()")
    return cursor.fetchone()


def audit_heads() -> dict[str, list]:
    """schema -> [lines, digest of the last one], of erased workspaces too: to be kept where nobody can change both."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT chain, seq, digest FROM public.vivavoce_audit_heads ORDER BY chain")
        return {chain: [seq, found] for chain, seq, found in cursor.fetchall()}


def audit_head() -> dict[str, Any]:
    """Of the bound schema, for the line that outlives it."""
    with connection.cursor() as cursor:
        seq, found = _head(cursor) or (0, GENESIS)
    return {"lines": seq, "digest": found}


def digest(entry: AuditEntry) -> str:
    """SHA-256 of the line as JSON with sorted keys; the time in microseconds since 1970."""
    values = {name: getattr(entry, name) for name in CHAINED} | {"at": round(entry.at.timestamp() * 1e6)}
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()).hexdigest()


def audit_verify(known: list | tuple | None = None) -> tuple[int, str]:
    """(lines, what is wrong with the first bad one, "" = the chain holds) of the bound schema.

    `known`: (lines, digest) that somebody wrote down earlier; that line must still be there as it was.
    """
    with connection.cursor() as cursor:  # before the walk: lines that come meanwhile are beyond it
        head = _head(cursor)
    count, previous = 0, GENESIS
    for entry in AuditEntry.objects.order_by("seq").iterator(2000):
        count += 1
        if entry.seq != count:
            return count, f"line {count} is missing (found {entry.seq})"
        if entry.previous != previous or entry.digest != digest(entry):
            return count, f"line {entry.seq} ({entry.id}) was changed"
        for where, end in (("the head", head), ("what was written down", known)):
            if end and entry.seq == end[0] and entry.digest != end[1]:
                return count, f"line {entry.seq} ({entry.id}) is not the one that {where} names: the chain was written anew"
        previous = entry.digest
    if count and not head:
        return count, "the head of the chain is missing"
    if missing := max((end[0] for end in (head, known) if end), default=0) - count:
        return count, f"the last {missing} lines are missing" if missing > 0 else ""
    return count, ""


def audit_filter(*, action: str = "", actor: str = "", target: str = "", ip: str = "", since: str = "", until: str = ""):
    """Lines whose fields begin with these, newest first; `since` and `until` are days as YYYY-MM-DD (UTC), both inclusive. Raises BadRequest."""
    rows = AuditEntry.objects.all()
    for name, value in (("action", action), ("actor", actor), ("target", target), ("ip", ip)):
        if value:
            rows = rows.filter(**{f"{name}__startswith": value})
    if since:
        rows = rows.filter(at__gte=_day("since", since))
    if until:
        rows = rows.filter(at__lt=_day("until", until) + timedelta(days=1))
    return rows


def _day(name: str, value: str) -> datetime:
    try:
        found = datetime.strptime(value, "%Y-%m-%d").replace(tzinfo=UTC)
        return min(found, datetime.max.replace(tzinfo=UTC) - timedelta(days=2))  # the day after it must exist, too
    except ValueError as error:
        raise BadRequest(f"{name}={value[:40]!r}: expected a day such as 2026-11-25", param=name) from error


FORMULA = ("=", "+", "-", "@", "\t", "\r")


def safe_cell(value: Any) -> str:
    """A cell no spreadsheet takes for a formula (OWASP, CSV injection)."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "'" + text if text.startswith(FORMULA) else text


def audit_csv(rows) -> Iterator[str]:
    names = ("seq", "at", "actor", "key_id", "ip", "action", "target", "before", "after", "request_id", "digest")
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(names)
    for entry in rows.iterator(1000):
        writer.writerow([entry.at.isoformat() if n == "at" else safe_cell(getattr(entry, n)) for n in names])
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue()
