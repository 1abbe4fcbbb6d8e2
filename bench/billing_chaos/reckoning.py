"""What was heard, written, summed, reported and invoiced."""

from __future__ import annotations

from collections import Counter

from bench.billing_chaos.chaos import Chaos
from bench.billing_chaos.clients import Client

HEARD = ("tokens_in", "tokens_out", "audio_out_ms")


def reckon(chaos: Chaos, clients: list[Client]) -> dict:
    from django.db.models import Sum

    from apps.billing.models import InvoiceLine
    from apps.conversations.models import TurnTrace, VoiceSession
    from apps.tenants.context import bound, bound_public
    from apps.usage import rollups
    from apps.usage.models import UsageEntry, UsageRollup

    def by_meter(rows, name: str = "quantity") -> dict[str, int]:
        return {row["meter"]: int(row["sum"]) for row in rows.values("meter").annotate(sum=Sum(name)).order_by("meter")}

    heard = {id: h for c in clients for id, h in c.heard.items()}
    with bound(chaos.tenant):
        response_of = dict(TurnTrace.objects.values_list("turn_id", "response_id"))
        written: dict[str, dict[str, int]] = {}
        for turn_id, meter, quantity in UsageEntry.objects.exclude(turn_id="").values_list("turn_id", "meter", "quantity"):
            written.setdefault(response_of[turn_id], {})[meter] = quantity
        result = {
            "ledger": by_meter(UsageEntry.objects), "entries": UsageEntry.objects.count(),
            "rollups": {g: by_meter(UsageRollup.objects.filter(grain=g)) for g in ("minute", "hour", "day")}, "differences": len(rollups.differences()),
            "sessions": VoiceSession.objects.count(), "session_ms of sessions": VoiceSession.objects.aggregate(sum=Sum("session_ms"))["sum"] or 0,
            "sessions whose time differs": _times(),
            "sessions left open": VoiceSession.objects.filter(state="live").count(),
        }  # fmt: skip
    with bound_public():
        lines = InvoiceLine.objects.filter(tenant=chaos.tenant, kind="usage")
        result["invoice lines"] = by_meter(lines.filter(invoice__finalized_at__isnull=False))
        result["periods invoiced"] = lines.values("period").distinct().count()
    result["provider's meters"] = _provider(chaos, result["ledger"])
    return result | _compare(heard, written)


def _times() -> list[tuple]:
    """Sessions whose row and ledger say different times."""
    from django.db.models import Sum

    from apps.conversations.models import VoiceSession
    from apps.usage.models import UsageEntry

    said = {r["session_id"]: r["sum"] for r in UsageEntry.objects.filter(meter="session_ms").values("session_id").annotate(sum=Sum("quantity"))}
    rows = VoiceSession.objects.values_list("id", "session_ms", "state", "close_reason")
    return [(id, ms, said.get(id, 0), state, reason) for id, ms, state, reason in rows if (ms or 0) != said.get(id, 0)][:20]


def _provider(chaos: Chaos, meters: dict[str, int]) -> dict[str, int]:
    """What the provider's meters counted, of all time."""
    import stripe

    names = {m.event_name.removeprefix("vivavoce_"): m.id for m in stripe.billing.Meter.list(limit=100).auto_paging_iter()}
    span = {"start_time": 0, "end_time": (chaos.door("clock")["now"] // 60 + 10) * 60}
    return {m: sum(int(r.aggregated_value) for r in stripe.billing.Meter.list_event_summaries(names[m], customer=chaos.customer, **span).data) for m in meters if m in names}


def _compare(heard: dict[str, dict], written: dict[str, dict[str, int]]) -> dict:
    """Turn by turn. A response whose end its client never learned (the session could not be taken up again) can be compared by its audio only."""
    sums, lost, wrong = Counter(), [], []
    told, ledger_told = Counter(), Counter()
    for id, h in heard.items():
        entry, audio_ms = written.get(id, {}), h["bytes"] // 48
        if h["usage"] is None:
            sums["cut before the end was told"] += 1
            sums["cut, and in the ledger"] += bool(entry)
            if entry and entry.get("audio_out_ms", 0) != audio_ms and not h["gap"]:
                wrong.append((id, h["session"], h["at"], "cut", entry, audio_ms))
            continue
        if audio_ms and not h["usage"]["output_token_details"]["audio_tokens"]:  # words we say of ourselves are not billed, and the client is told so
            sums["notices heard"] += 1
            audio_ms = 0
        if h["gap"]:  # what it had heard was said again: it is billed once
            sums["told after a gap"] += 1
            audio_ms = min(audio_ms, entry.get("audio_out_ms", 0))
        usage = {"tokens_in": h["usage"]["input_token_details"]["text_tokens"], "tokens_out": h["usage"]["output_token_details"]["text_tokens"], "audio_out_ms": audio_ms}
        told.update(usage)
        ledger_told.update({m: entry.get(m, 0) for m in HEARD})
        if not entry and any(usage.values()):
            lost.append((id, h["session"], h["at"], h["status"], usage))
        elif {m: q for m, q in usage.items() if q} != {m: entry[m] for m in HEARD if entry.get(m)}:
            wrong.append((id, h["session"], h["at"], h["status"], entry, usage))
    stray = [id for id in written if id not in heard]
    return {"heard": dict(told), "ledger of what was told": dict(ledger_told), "turns told": sum(h["usage"] is not None for h in heard.values()),
            **sums, "lost": lost[:20], "different": wrong[:20], "in the ledger and heard by nobody": stray[:20]}  # fmt: skip


def verdict(r: dict) -> list[str]:
    """What does not add up; empty is right."""
    ledger, bad = r["ledger"], []
    checks = {
        "heard = ledger": r["heard"] == r["ledger of what was told"] and not r["lost"] and not r["different"] and not r["in the ledger and heard by nobody"],
        "ledger = roll-ups": all(sums == ledger for sums in r["rollups"].values()) and r["differences"] == 0,
        "ledger = invoice lines": r["invoice lines"] == ledger,
        "ledger = provider's meters": r["provider's meters"] == ledger,
        "session_ms = sessions": ledger.get("session_ms", 0) == r["session_ms of sessions"] and r["sessions left open"] == 0,
    }  # fmt: skip
    for name, holds in checks.items():
        print(f"{'yes' if holds else 'NO '}  {name}", flush=True)
        if not holds:
            bad.append(name)
    return bad
