"""The plans an installation begins with; its operator changes them in the admin, as new versions."""

from django.db import migrations
from django.utils import timezone

MINUTE_MS, MICROS_A_MS = 60_000, 1  # one micro-unit a millisecond = 0.06 a minute
OVERAGE = {currency: {"session_ms": MICROS_A_MS} for currency in ("usd", "eur", "gbp")}
FREE = {"requests_per_minute": 300, "tokens_per_minute": 60_000, "concurrent_sessions": 2, "audio_minutes_per_day": 30}
PRO = {"requests_per_minute": 3000, "tokens_per_minute": 500_000, "concurrent_sessions": 50, "audio_minutes_per_day": 20_000}
ENTERPRISE = {"requests_per_minute": 30_000, "tokens_per_minute": 5_000_000, "concurrent_sessions": 1000, "audio_minutes_per_day": 1_000_000}
# code, kind, name, about, listed, position, entitlements, included, rates, trial days, {currency: (month, year) in cents}
PLANS = [
    ("free", "base", "Free", "To try it: two sessions at once, 30 minutes a day.", True, 0, FREE, {}, {}, 0, {}),
    ("pro", "base", "Pro", "1,000 minutes a month included, then by the minute; 50 sessions at once.", True, 10, PRO, {"session_ms": 1000 * MINUTE_MS}, OVERAGE, 14,
     {"usd": (4900, 49_000), "eur": (4500, 45_000), "gbp": (3900, 39_000)}),
    ("enterprise", "base", "Enterprise", "Your own terms: talk to us.", False, 20, ENTERPRISE, {"session_ms": 20_000 * MINUTE_MS}, OVERAGE, 0,
     {"usd": (99_900, 999_000), "eur": (92_900, 929_000), "gbp": (79_900, 799_000)}),
    ("sessions-10", "addon", "10 more sessions at once", "For busy hours.", True, 0, {"concurrent_sessions": 10}, {}, {}, 0,
     {"usd": (1900, 19_000), "eur": (1700, 17_000), "gbp": (1500, 15_000)}),
    ("minutes-1000", "addon", "1,000 more minutes", "A month; cheaper than by the minute.", True, 1, {}, {"session_ms": 1000 * MINUTE_MS}, {}, 0,
     {"usd": (4500, 45_000), "eur": (4200, 42_000), "gbp": (3600, 36_000)}),
]  # fmt: skip


def make(apps, schema_editor):
    Plan, Version, Price = (apps.get_model("billing", name) for name in ("Plan", "PlanVersion", "Price"))
    for code, kind, name, about, listed, position, entitlements, included, rates, trial, prices in PLANS:
        plan = Plan.objects.create(code=code, kind=kind, name=name, about=about, listed=listed, position=position)
        version = Version.objects.create(plan=plan, number=1, entitlements=entitlements, included=included, rates=rates, trial_days=trial)
        for currency, (month, year) in prices.items():
            for interval, cents in (("month", month), ("year", year)):
                Price.objects.create(version=version, currency=currency, interval=interval, amount_cents=cents)
        version.published_at = timezone.now()
        version.save()


class Migration(migrations.Migration):
    dependencies = [("billing", "0002_immutable")]
    operations = [migrations.RunPython(make, migrations.RunPython.noop)]
