"""Previews: let it happen up to the moment of finalising, read the invoice, and take everything back. So a preview cannot differ."""

from __future__ import annotations

from collections.abc import Callable

from tools.billing_sandbox.errors import StripeError
from tools.billing_sandbox.invoicing import PreviewReady
from tools.billing_sandbox.sandbox import Sandbox


def preview(sandbox: Sandbox, happen: Callable[[], object]) -> dict:
    """The invoice that `happen` would finalise first. Raises StripeError when it would finalise none."""
    before, sandbox.previewing = sandbox.previewing, True
    try:
        with sandbox.store.undone():
            try:
                happen()
            except PreviewReady as ready:
                lines = [line | {"id": "il_tmp_" + line["id"][3:]} for line in ready.invoice["_lines"]]
                return ready.invoice | {"id": "upcoming_" + ready.invoice["id"], "_lines": lines, "_preview": True}
    finally:
        sandbox.previewing = before
    raise StripeError("No upcoming invoices for customer: nothing would be billed.", None, "invoice_upcoming_none")

