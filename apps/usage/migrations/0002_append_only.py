"""The ledger is never changed: the database refuses."""

from django.db import migrations

TRIGGER = """
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON usage_usageentry
FOR EACH ROW EXECUTE FUNCTION public.vivavoce_refuse_change();
"""


class Migration(migrations.Migration):
    dependencies = [("usage", "0001_initial"), ("audit", "0002_append_only")]
    operations = [migrations.RunSQL(TRIGGER, "DROP TRIGGER append_only ON usage_usageentry")]
