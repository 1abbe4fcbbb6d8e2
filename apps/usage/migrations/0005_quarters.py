from django.db import migrations, models

# Those entries that are in the minutes: what waits is added to both by the next roll.
QUARTERS = """
INSERT INTO usage_usagerollup (grain, starts, agent_id, key_id, meter, quantity, entries)
SELECT '15min', date_bin('15 minutes', starts, timestamptz '2000-01-01 00:00Z') AS quarter, '', '', meter, sum(quantity), sum(entries)
FROM usage_usagerollup WHERE grain = 'minute' GROUP BY quarter, meter
"""


class Migration(migrations.Migration):
    dependencies = [("usage", "0004_accounts_and_rollups")]

    operations = [
        migrations.AlterField(
            model_name="usagerollup", name="grain",
            field=models.CharField(choices=[("minute", "Minute"), ("15min", "Quarter"), ("hour", "Hour"), ("day", "Day")], max_length=6),
        ),
        migrations.RunSQL(QUARTERS, "DELETE FROM usage_usagerollup WHERE grain = '15min'"),
    ]
