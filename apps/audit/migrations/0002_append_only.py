"""The database itself refuses to change or delete what was written. The function lives in public; each schema has its triggers."""

from django.db import migrations

FUNCTION = """
CREATE OR REPLACE FUNCTION public.vivavoce_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;
"""
TRIGGER = """
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON audit_auditentry FOR EACH ROW EXECUTE FUNCTION public.vivavoce_refuse_change();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON audit_auditentry FOR EACH STATEMENT EXECUTE FUNCTION public.vivavoce_refuse_change();
"""


class Migration(migrations.Migration):
    dependencies = [("audit", "0001_initial")]
    operations = [
        migrations.RunSQL(FUNCTION, migrations.RunSQL.noop),
        migrations.RunSQL(TRIGGER, "DROP TRIGGER append_only ON audit_auditentry; DROP TRIGGER no_truncate ON audit_auditentry"),
    ]
