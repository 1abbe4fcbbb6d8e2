"""What was agreed and what was billed stays as it was: the database refuses to change it."""

from django.db import migrations

# table -> (when a row is settled, columns that may still change)
VERSION = "to_jsonb(NEW) - 'product_id' IS DISTINCT FROM to_jsonb(OLD) - 'product_id'"
PRICE = "to_jsonb(NEW) - 'provider_id' IS DISTINCT FROM to_jsonb(OLD) - 'provider_id'"
OPEN_COLUMNS = "ARRAY['status', 'paid_cents', 'due_cents', 'refunded_cents', 'attempts', 'next_attempt_at']"
SQL = f"""
CREATE FUNCTION public.billing_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION '% of % is refused: %', TG_OP, TG_TABLE_NAME, TG_ARGV[0] USING ERRCODE = 'integrity_constraint_violation'; END $$;

CREATE TRIGGER published_update BEFORE UPDATE ON public.billing_planversion FOR EACH ROW
WHEN (OLD.published_at IS NOT NULL AND {VERSION}) EXECUTE FUNCTION public.billing_refuse('a published version keeps its terms; make a new one');
CREATE TRIGGER published_delete BEFORE DELETE ON public.billing_planversion FOR EACH ROW
WHEN (OLD.published_at IS NOT NULL) EXECUTE FUNCTION public.billing_refuse('a published version keeps its terms; make a new one');

CREATE FUNCTION public.billing_price_check() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT 1 FROM public.billing_planversion WHERE id = OLD.version_id AND published_at IS NOT NULL) THEN
    IF TG_OP = 'DELETE' OR {PRICE} THEN
      RAISE EXCEPTION 'a price of a published version stays; make a new version' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
  END IF;
  IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER published BEFORE UPDATE OR DELETE ON public.billing_price FOR EACH ROW EXECUTE FUNCTION public.billing_price_check();

CREATE TRIGGER finalized_update BEFORE UPDATE ON public.billing_invoice FOR EACH ROW
WHEN (OLD.finalized_at IS NOT NULL AND to_jsonb(NEW) - {OPEN_COLUMNS} IS DISTINCT FROM to_jsonb(OLD) - {OPEN_COLUMNS})
EXECUTE FUNCTION public.billing_refuse('a finalised invoice is never edited; make a credit note');
CREATE TRIGGER finalized_delete BEFORE DELETE ON public.billing_invoice FOR EACH ROW
WHEN (OLD.finalized_at IS NOT NULL) EXECUTE FUNCTION public.billing_refuse('a finalised invoice is never deleted; make a credit note');

CREATE FUNCTION public.billing_line_check() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT 1 FROM public.billing_invoice WHERE finalized_at IS NOT NULL
             AND id IN (CASE WHEN TG_OP <> 'INSERT' THEN OLD.invoice_id END, CASE WHEN TG_OP <> 'DELETE' THEN NEW.invoice_id END)) THEN
    RAISE EXCEPTION 'a line of a finalised invoice stays; make a credit note' USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER finalized BEFORE INSERT OR UPDATE OR DELETE ON public.billing_invoiceline FOR EACH ROW EXECUTE FUNCTION public.billing_line_check();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON public.billing_adjustment FOR EACH ROW EXECUTE FUNCTION public.vivavoce_refuse_change();
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0001_initial"), ("audit", "0002_append_only")]
    operations = [migrations.RunSQL(SQL, migrations.RunSQL.noop)]
