"""For operators: credits, credit notes, reconciliation and revenue."""

from ninja import Field, Router

from apps.api.v1.base import Body, Schema, answers, creates, tenant_row
from apps.api.v1.billing import AdjustmentOut
from apps.billing import reconciliation, services
from apps.billing.invoicing import credit_give, invoice_credit
from apps.billing.models import Invoice, Subscription
from apps.common.errors import Conflict, NotFound

router = Router()


class CreditIn(Body):
    amount_cents: int = Field(examples=[500], ge=1, le=10**9)
    reason: str = Field(examples=["an hour of outage"], min_length=1, max_length=300)


class CreditNoteIn(CreditIn):
    refund: bool = Field(False, description="to the card; else to the balance, or off what is due")


class Standing(Schema):
    tenant: str
    meter: str
    ledger: int
    rollups: int
    billed_ledger: int = Field(description="of closed periods")
    invoiced: int
    sent_ledger: int = Field(description="up to the last entry that was reported")
    reported: int
    difference: int


class Reconciliation(Schema):
    difference: int = Field(description="0: everything adds up")
    rows: list[Standing]


class RevenueOut(Schema):
    currency: str
    month: str
    invoiced_cents: int
    paid_cents: int
    refunded_cents: int
    open_cents: int


def _row(tenant_id: str) -> Subscription:
    row = services.subscription_get(tenant_row(tenant_id))
    if row is None:
        raise Conflict("this workspace has bought nothing yet")
    return row


@router.post("tenants/{tenant_id}/credits", response=answers(201, AdjustmentOut), summary="Give a workspace a balance for its next invoices")
@creates
def give_credit(request, tenant_id: str, payload: CreditIn):
    made = credit_give(row=_row(tenant_id), cents=payload.amount_cents, reason=payload.reason, actor=request.actor)
    return 201, AdjustmentOut.from_orm(made)


@router.post("invoices/{invoice_id}/credit-notes", response=answers(201, AdjustmentOut), summary="Credit or refund an invoice, in part or in full")
@creates
def credit_note(request, invoice_id: str, payload: CreditNoteIn):
    found = None if "\0" in invoice_id else Invoice.objects.select_related("tenant").filter(pk=invoice_id).first()
    if found is None:
        raise NotFound(f"no invoice {invoice_id[:60]!r}")
    made = invoice_credit(invoice=found, row=_row(found.tenant_id), cents=payload.amount_cents, reason=payload.reason, refund=payload.refund, actor=request.actor)
    return 201, AdjustmentOut.from_orm(made)


@router.get("reconciliation", response=answers(200, Reconciliation), summary="Ledger = roll-ups = invoice lines = reported")
def reconcile(request):
    rows = reconciliation.standings()
    return 200, {"difference": sum(row.difference for row in rows), "rows": rows}


@router.get("revenue", response=answers(200, list[RevenueOut]), summary="Invoiced, paid, refunded and open, by month and currency")
def revenue(request):
    return 200, reconciliation.revenue()
