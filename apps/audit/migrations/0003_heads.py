"""Where each chain ends, kept apart from the chain in `public`: so its last lines cannot be cut off unseen. A head only grows, and outlives its schema."""

from django.db import migrations

TABLE = """
CREATE TABLE IF NOT EXISTS public.vivavoce_audit_heads (chain text PRIMARY KEY, seq bigint NOT NULL, digest text NOT NULL);
CREATE OR REPLACE FUNCTION public.vivavoce_only_grow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.chain = OLD.chain AND NEW.seq > OLD.seq THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'the head of a chain only grows' USING ERRCODE = 'restrict_violation';
END $$;
CREATE OR REPLACE TRIGGER only_grow BEFORE UPDATE OR DELETE ON public.vivavoce_audit_heads FOR EACH ROW EXECUTE FUNCTION public.vivavoce_only_grow();
CREATE OR REPLACE TRIGGER no_truncate BEFORE TRUNCATE ON public.vivavoce_audit_heads FOR EACH STATEMENT EXECUTE FUNCTION public.vivavoce_only_grow();
INSERT INTO public.vivavoce_audit_heads SELECT current_schema(), seq, digest FROM audit_auditentry ORDER BY seq DESC LIMIT 1 ON CONFLICT DO NOTHING;
"""


class Migration(migrations.Migration):
    dependencies = [("audit", "0002_append_only")]
    operations = [migrations.RunSQL(TABLE, migrations.RunSQL.noop)]
