"""Free gets monthly minutes: what runs keeps its version, who comes now gets this one. And a subscription knows of a plan by hand."""

from django.db import migrations, models
from django.utils import timezone

MINUTES = 100
INCLUDED = {"session_ms": MINUTES * 60_000}
# Free costs nothing: its cap is 0, so a price says only that units beyond the included ones are not to be had.
RATES = {currency: {"session_ms": 1} for currency in ("usd", "eur", "gbp")}
ABOUT = f"To try it: two sessions at once, {MINUTES} minutes a month."


def make(apps, schema_editor):
    Plan, Version = (apps.get_model("billing", name) for name in ("Plan", "PlanVersion"))
    last = Version.objects.filter(plan_id="free").order_by("-number").first()
    if last is None or last.number > 1:  # an operator has made Free their own
        return
    Plan.objects.filter(pk="free").update(about=ABOUT)
    made = Version.objects.create(plan_id="free", number=2, entitlements=last.entitlements, included=INCLUDED, rates=RATES)
    made.published_at = timezone.now()
    made.save()


class Migration(migrations.Migration):
    dependencies = [("billing", "0004_usage_reports")]
    operations = [
        migrations.RunPython(make, migrations.RunPython.noop),
        migrations.AddField("subscription", "by_hand", models.CharField(blank=True, max_length=40)),
    ]
