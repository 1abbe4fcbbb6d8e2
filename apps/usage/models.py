from __future__ import annotations

from django.db import models
from django.utils import timezone


class Meter(models.TextChoices):
    AUDIO_IN_MS = "audio_in_ms"
    AUDIO_OUT_MS = "audio_out_ms"
    TOKENS_IN = "tokens_in"
    TOKENS_OUT = "tokens_out"
    SESSION_MS = "session_ms"
    CHARACTERS = "characters"  # spoken by REST calls
    REQUESTS = "requests"  # REST calls


class Entry(models.Model):
    """What one turn used of one meter, in whole units."""

    session_id = models.CharField(max_length=64)  # sess_…, or req_… of a REST call
    turn_id = models.CharField(max_length=64, blank=True)  # "" for what belongs to the whole session
    meter = models.CharField(max_length=24, choices=Meter.choices)
    quantity = models.PositiveBigIntegerField()
    agent_id = models.CharField(max_length=40, blank=True)
    key_id = models.CharField(max_length=40, blank=True)
    at = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self.turn_id or self.session_id} {self.meter} {self.quantity}"


class UsageEntry(Entry):
    """The ledger: append-only (the database refuses update and delete). Tenant schema."""

    period = models.PositiveIntegerField(default=1)  # of billing; see accounts.py

    class Meta:
        constraints = [models.UniqueConstraint(fields=["session_id", "turn_id", "meter"], name="one_entry_per_turn_and_meter")]
        indexes = [models.Index(fields=["period", "meter", "id"], name="usage_of_period")]


class UnbilledEntry(Entry):
    """Work that the client never got (speculative, dropped, failed): shown, never billed, in no sum of the ledger."""

    class Meta:
        constraints = [models.UniqueConstraint(fields=["session_id", "turn_id", "meter"], name="one_unbilled_per_turn_and_meter")]


class UsagePending(models.Model):
    """Entries that no roll-up holds yet; written with the entry, deleted with the roll-up's growth."""

    entry_id = models.BigIntegerField(primary_key=True)
    session_id = models.CharField(max_length=64, db_index=True)

    def __str__(self) -> str:
        return str(self.entry_id)


class Grain(models.TextChoices):
    MINUTE = "minute"
    QUARTER = "15min"  # of an hour; agents and keys together
    HOUR = "hour"
    DAY = "day"


class UsageRollup(models.Model):
    """Sums of the ledger by minute, hour and day (UTC), agent, key and meter, and by quarter of an hour and meter; see rollups.py."""

    grain = models.CharField(max_length=6, choices=Grain.choices)
    starts = models.DateTimeField()
    agent_id = models.CharField(max_length=40, blank=True)
    key_id = models.CharField(max_length=40, blank=True)
    meter = models.CharField(max_length=24, choices=Meter.choices)
    quantity = models.PositiveBigIntegerField()
    entries = models.PositiveBigIntegerField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["grain", "starts", "agent_id", "key_id", "meter"], name="one_rollup_per_key")]

    def __str__(self) -> str:
        return f"{self.grain} {self.starts:%Y-%m-%d %H:%M} {self.meter} {self.quantity}"


class PeriodTotal(models.Model):
    """The sum of the ledger for a billing period and a meter: what an invoice line says."""

    period = models.PositiveIntegerField()
    meter = models.CharField(max_length=24, choices=Meter.choices)
    quantity = models.PositiveBigIntegerField()
    entries = models.PositiveBigIntegerField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["period", "meter"], name="one_total_per_period_and_meter")]

    def __str__(self) -> str:
        return f"{self.period} {self.meter} {self.quantity}"


class OpenPeriod(models.Model):
    """One row: the period that entries are written into. Writers hold it (FOR KEY SHARE), who closes it waits for them."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    number = models.PositiveIntegerField(default=1)
    starts = models.DateTimeField(null=True, blank=True)  # empty: since the workspace began
    ends = models.DateTimeField(null=True, blank=True)  # empty: nobody has said

    def __str__(self) -> str:
        return f"period {self.number}"


def tightest(*caps: int | None) -> int | None:
    return min((c for c in caps if c is not None), default=None)


class Account(models.Model):
    """One row: the terms of the open period, the spend cap, and what was used and is held against it."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    currency = models.CharField(max_length=3, blank=True)
    rates = models.JSONField(default=dict)  # meter -> [micro-units, per units]
    included = models.JSONField(default=dict)  # meter -> units without charge
    plan_cap_micros = models.BigIntegerField(null=True, blank=True)  # of the plan: 0 = nothing beyond what is included
    cap_micros = models.BigIntegerField(null=True, blank=True)  # the tenant's own
    alerts = models.JSONField(default=list)  # per cent of the cap
    used = models.JSONField(default=dict)  # meter -> units of the open period that are in the roll-ups
    held = models.JSONField(default=dict)  # meter -> units that live sessions reserved and the roll-ups do not hold yet
    alerted = models.JSONField(default=dict)  # {"period": n, "sent": [50, …]}

    class Meta:
        constraints = [
            models.CheckConstraint(condition=models.Q(cap_micros__gte=0) | models.Q(cap_micros=None), name="cap_is_not_negative"),
        ]

    def __str__(self) -> str:
        return f"account in {self.currency or 'no currency'}"

    @property
    def limit_micros(self) -> int | None:
        return tightest(self.cap_micros, self.plan_cap_micros)


class Reservation(models.Model):
    """What a live session holds ahead of its use."""

    session_id = models.CharField(primary_key=True, max_length=64)
    held = models.JSONField(default=dict)  # meter -> units
    expires_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.session_id


class ClosedPeriod(models.Model):
    """A period that takes no entry any more, with the terms it had."""

    number = models.PositiveIntegerField(primary_key=True)
    starts = models.DateTimeField(null=True)
    ends = models.DateTimeField(unique=True)
    closed_at = models.DateTimeField(auto_now_add=True)
    currency = models.CharField(max_length=3, blank=True)
    rates = models.JSONField(default=dict)
    included = models.JSONField(default=dict)
    totals = models.JSONField(default=dict)  # meter -> units

    def __str__(self) -> str:
        return f"period {self.number}"
