"""An invoice as PDF and CSV, made from our own rows."""

from __future__ import annotations

import csv
import io
import re

from fpdf import FPDF
from fpdf.enums import XPos, YPos

from apps.audit.services import safe_cell
from apps.billing.models import Invoice

DARK, SOFT, LINE = (30, 30, 40), (110, 110, 125), (205, 205, 215)


def money(cents: int, currency: str) -> str:
    return f"{cents / 100:,.2f} {currency.upper()}"


def file_name(invoice: Invoice) -> str:
    return "invoice-" + re.sub(r"[^A-Za-z0-9-]", "-", invoice.number or invoice.id)


def _latin(text: str) -> str:
    """The built-in fonts know Latin-1; another letter becomes a question mark."""
    return text.encode("latin-1", "replace").decode("latin-1")


def invoice_pdf(invoice: Invoice) -> bytes:
    pdf = FPDF(format="A4")
    pdf.set_title(_latin(f"Invoice {invoice}"))
    pdf.set_lang("en")
    pdf.set_creation_date(invoice.finalized_at or invoice.created_at)  # the same invoice is the same file
    pdf.set_auto_page_break(True, margin=20)
    pdf.add_page()
    _head(pdf, invoice)
    _lines(pdf, invoice)
    _sums(pdf, invoice)
    return bytes(pdf.output())


def _row(pdf: FPDF, text: str, size: int = 10, style: str = "", colour: tuple = DARK, align: str = "L") -> None:
    pdf.set_font("Helvetica", style, size)
    pdf.set_text_color(*colour)
    pdf.cell(0, size * 0.55, _latin(text), align=align, new_x=XPos.LMARGIN, new_y=YPos.NEXT)


def _head(pdf: FPDF, invoice: Invoice) -> None:
    what = "Statement" if not invoice.provider_id else "Invoice"
    _row(pdf, f"{what} {invoice.number or '(draft)'}", 20, "B")
    pdf.ln(3)
    _row(pdf, f"{invoice.get_status_display()}    {invoice.created_at:%d %B %Y}    period {invoice.starts:%Y-%m-%d} to {invoice.ends:%Y-%m-%d}", colour=SOFT)
    pdf.ln(5)
    for name in ("name", "email", "postal_code", "country", "tax_id"):
        if value := invoice.bill_to.get(name):
            _row(pdf, f"{'Tax id ' if name == 'tax_id' else ''}{value}", style="B" if name == "name" else "")
    pdf.ln(6)


def _lines(pdf: FPDF, invoice: Invoice) -> None:
    pdf.set_draw_color(*LINE)
    pdf.set_text_color(*DARK)
    pdf.set_font("Helvetica", "", 9)
    with pdf.table(col_widths=(100, 30, 30, 30), text_align=("LEFT", "RIGHT", "RIGHT", "RIGHT"), borders_layout="HORIZONTAL_LINES", line_height=6) as table:
        table.row(("Description", "Quantity", "Included", "Amount"))
        for line in invoice.lines.all():
            table.row((_latin(line.description), f"{line.quantity:,}", f"{line.included:,}" if line.included else "", money(line.amount_cents, line.currency)))


def _sums(pdf: FPDF, invoice: Invoice) -> None:
    pdf.ln(4)
    rows = [("Subtotal", invoice.subtotal_cents), ("Tax", invoice.tax_cents), ("Total", invoice.total_cents), ("Paid", invoice.paid_cents), ("Due", invoice.due_cents)]
    for words, cents in rows:
        _row(pdf, f"{words}    {money(cents, invoice.currency)}", style="B" if words in ("Total", "Due") else "", align="R")
    for note in invoice.adjustments.all():
        _row(pdf, f"{note.get_kind_display()}: {money(note.amount_cents, note.currency)}, {note.reason}", 9, colour=SOFT, align="R")


def invoice_csv(invoice: Invoice) -> str:
    """One row a line; amounts exact, in micro-units, and as collected, in cents."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(("invoice", "kind", "description", "meter", "period", "quantity", "included", "rate_micros", "rate_units", "amount_micros", "amount_cents", "currency",
                     "starts", "ends"))  # fmt: skip
    for line in invoice.lines.all():
        writer.writerow((safe_cell(str(invoice)), line.kind, safe_cell(line.description), line.meter, line.period or "", line.quantity, line.included, line.rate_micros,
                         line.rate_units, line.amount_micros, line.amount_cents, line.currency, line.starts.isoformat(), line.ends.isoformat()))  # fmt: skip
    return out.getvalue()
