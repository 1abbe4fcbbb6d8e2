from datetime import datetime
from typing import Literal

from django.conf import settings
from django.http import HttpResponse
from ninja import Field, Router

from apps.api.v1.base import Body, Limit, Page, Schema, answers, creates, file_answer, needs, page
from apps.billing import documents, selectors, services, stripe, wallet
from apps.billing.models import Invoice, Plan, Subscription
from apps.tenants.models import Tenant

router = Router()
Currency, Interval = Literal["usd", "eur", "gbp"], Literal["month", "year"]


class PriceOut(Schema):
    currency: str
    interval: str
    amount_cents: int


class PlanOut(Schema):
    code: str
    kind: str
    name: str
    about: str
    version: int
    trial_days: int
    entitlements: dict[str, int]
    included: dict[str, int]
    rates: dict[str, dict[str, int | list[int]]] = Field(description="currency -> meter -> micro-units a unit, or [micro-units, units]")
    prices: list[PriceOut]


class AddOnOut(Schema):
    addon: str
    quantity: int


class SubscriptionOut(Schema):
    plan: str | None = Field(description="null: no plan; the installation's limits hold")
    plan_by_hand: str | None = Field(description="an operator's, whose limits and included units hold in place of those of `plan`")
    version: int | None
    status: str
    interval: str | None
    currency: str
    amount_cents: int
    entitlements: dict[str, int]
    period_start: datetime | None
    period_end: datetime | None
    trial_end: datetime | None
    cancel_at_period_end: bool
    next_plan: str | None
    grace_until: datetime | None
    addons: list[AddOnOut]
    sandbox: bool = Field(description="true: a local stand-in for Stripe answers; no money moves")


class PlanChange(Body):
    plan: str = Field(examples=["pro"], max_length=40)
    interval: Interval = "month"
    currency: Currency | None = None


class PlanConfirm(PlanChange):
    quote: str = Field("", max_length=400, description="of the preview: the change costs what it said, to the cent")


class PreviewLine(Schema):
    description: str
    amount: int


class PreviewOut(Schema):
    kind: str = Field(description="new or upgrade: at once; downgrade: at the period's end; keep: takes one back")
    currency: str
    due_cents: int = Field(description="charged now")
    tax_cents: int
    lines: list[PreviewLine]
    quote: str


class TrialIn(Body):
    currency: Currency | None = None


class AddOnIn(Body):
    addon: str = Field(examples=["sessions-10"], max_length=40)
    quantity: int = Field(examples=[1], ge=0, le=100)


class AddOnConfirm(AddOnIn):
    quote: str = Field("", max_length=400)


class CardOut(Schema):
    id: str
    brand: str
    last4: str
    expires: str
    default: bool


class CardSetup(Schema):
    setup_intent: str
    client_secret: str = Field(description="for Stripe Elements in your page; or send the browser to `page`")
    public_key: str
    page: str = Field(description="the sandbox's card page; empty with a key of Stripe's")


class CardDone(Body):
    setup_intent: str = Field(examples=["seti_1N2x"], max_length=80)


class SetupState(Schema):
    status: str


class TaxIn(Body):
    name: str = Field("", max_length=120, examples=["Bakery GmbH"])
    country: str = Field("", max_length=2, examples=["DE"])
    postal_code: str = Field("", max_length=20)
    tax_id_type: str = Field("", max_length=20, examples=["eu_vat"])
    tax_id: str = Field("", max_length=40, examples=["DE123456789"])
    exempt: Literal["", "none", "exempt", "reverse"] = ""


class InvoiceOut(Schema):
    id: str
    number: str
    status: str
    reason: str
    currency: str
    subtotal_cents: int
    tax_cents: int
    total_cents: int
    due_cents: int
    paid_cents: int
    refunded_cents: int
    starts: datetime
    ends: datetime
    created_at: datetime
    finalized_at: datetime | None


class LineOut(Schema):
    id: int
    kind: str
    description: str
    meter: str
    period: int | None
    quantity: int
    included: int
    rate_micros: int
    rate_units: int
    amount_micros: int
    amount_cents: int
    starts: datetime
    ends: datetime


class AdjustmentOut(Schema):
    id: str
    kind: str
    amount_cents: int
    currency: str
    reason: str
    at: datetime


class InvoiceDetail(InvoiceOut):
    lines: list[LineOut]
    adjustments: list[AdjustmentOut]


class EntryOut(Schema):
    id: int
    session_id: str
    turn_id: str
    meter: str
    quantity: int
    at: datetime


def _plan(plan: Plan) -> dict:
    version = plan.current
    terms = {n: getattr(version, n) for n in ("entitlements", "included", "rates", "trial_days")}
    return {"code": plan.code, "kind": plan.kind, "name": plan.name, "about": plan.about, "version": version.number, "prices": list(version.prices.all()), **terms}


def _subscription(tenant: Tenant, row: Subscription | None) -> dict:
    tenant.refresh_from_db(fields=["entitlements"])
    has = row is not None and row.status != Subscription.Status.NONE
    price = row.price if has else None
    return {
        "plan": row.version.plan_id if has else None, "plan_by_hand": row.by_hand or None if row else None, "version": row.version.number if has else None, "status": row.status if row else "none",
        "interval": price.interval if price else None, "currency": row.currency if row else "", "amount_cents": price.amount_cents if price else 0,
        "entitlements": tenant.entitlements, "period_start": row.period_start if has else None, "period_end": row.period_end if has else None,
        "trial_end": row.trial_end if has else None, "cancel_at_period_end": bool(has and row.cancel_at_period_end),
        "next_plan": row.next_version.plan_id if has and row.next_version_id else None, "grace_until": row.grace_until if has else None,
        "addons": [{"addon": a.version.plan_id, "quantity": a.quantity} for a in row.addons.select_related("version")] if has else [], "sandbox": stripe.SANDBOX,
    }  # fmt: skip


@router.get("", response=answers(200, SubscriptionOut), summary="The plan")
@needs("billing.read")
def get(request):
    return 200, _subscription(request.tenant, services.subscription_get(request.tenant))


@router.get("plans", response=answers(200, list[PlanOut]), summary="Plans and add-ons that can be chosen")
@needs("billing.read")
def plans(request):
    return 200, [_plan(plan) for kind in Plan.Kind.values for plan in services.plans_offered(request.tenant, kind)]


@router.post("preview", response=answers(200, PreviewOut), summary="What a change would cost, to the cent")
@needs("billing.read")
def preview(request, payload: PlanChange):
    change, found, quote = services.plan_preview(tenant=request.tenant, plan=payload.plan, interval=payload.interval, currency=payload.currency or "", actor=request.actor)
    currency = found.currency if found else change.price.currency if change.price else ""
    return 200, {"kind": change.kind, "currency": currency, "due_cents": found.due_cents if found else 0, "tax_cents": found.tax_cents if found else 0,
                 "lines": list(found.lines) if found else [], "quote": quote}  # fmt: skip


@router.post("plan", response=answers(200, SubscriptionOut), summary="Change the plan: up at once, down at the period's end")
@needs("billing.write")
def change(request, payload: PlanConfirm):
    services.plan_change(tenant=request.tenant, plan=payload.plan, interval=payload.interval, currency=payload.currency or "", quote=payload.quote, actor=request.actor)
    return get(request)


@router.post("cancel", response=answers(200, SubscriptionOut), summary="Cancel at the period's end")
@needs("billing.write")
def cancel(request):
    services.plan_cancel(tenant=request.tenant, actor=request.actor)
    return get(request)


@router.post("keep", response=answers(200, SubscriptionOut), summary="Take a cancellation or downgrade back")
@needs("billing.write")
def keep(request):
    services.plan_keep(tenant=request.tenant, actor=request.actor)
    return get(request)


@router.post("trial", response=answers(200, SubscriptionOut), summary="Begin the trial of Pro; no card")
@needs("billing.write")
def trial(request, payload: TrialIn):
    services.trial_start(tenant=request.tenant, currency=payload.currency or "", actor=request.actor)
    return get(request)


@router.post("addons/preview", response=answers(200, PreviewOut), summary="What so many of an add-on would cost, to the cent")
@needs("billing.read")
def addon_preview(request, payload: AddOnIn):
    found, quote = services.addon_preview(tenant=request.tenant, addon=payload.addon, quantity=payload.quantity, actor=request.actor)
    return 200, {"kind": "addon", "currency": found.currency, "due_cents": found.due_cents, "tax_cents": found.tax_cents, "lines": list(found.lines), "quote": quote}


@router.post("addons", response=answers(200, SubscriptionOut), summary="So many of an add-on, from now on")
@needs("billing.write")
def addons(request, payload: AddOnConfirm):
    services.addon_set(tenant=request.tenant, addon=payload.addon, quantity=payload.quantity, quote=payload.quote, actor=request.actor)
    return get(request)


@router.put("tax", response=answers(200, SubscriptionOut), summary="Name, country and tax id on invoices")
@needs("billing.write")
def tax(request, payload: TaxIn):
    services.tax_set(tenant=request.tenant, actor=request.actor, **payload.dict())
    return get(request)


@router.get("cards", response=answers(200, list[CardOut]), summary="Cards")
@needs("billing.read")
def cards(request):
    return 200, wallet.card_list(request.tenant)


@router.post("cards", response=answers(201, CardSetup), summary="Begin to add a card; its number goes to the provider only")
@needs("billing.write")
@creates
def card_begin(request):
    setup, secret = wallet.card_begin(tenant=request.tenant, actor=request.actor)
    where = f"{settings.BILLING_SANDBOX_URL}/_sandbox/confirm?client_secret={secret}" if stripe.SANDBOX else ""
    return 201, {"setup_intent": setup, "client_secret": secret, "public_key": settings.STRIPE_PUBLIC_KEY, "page": where}


@router.post("cards/finish", response=answers(200, SetupState), summary="After the provider's form: the first card becomes the default")
@needs("billing.write")
def card_finish(request, payload: CardDone):
    return 200, {"status": wallet.card_finish(tenant=request.tenant, setup_id=payload.setup_intent, actor=request.actor)}


@router.post("cards/{card_id}/default", response=answers(200, list[CardOut]), summary="Pay with this card from now on")
@needs("billing.write")
def card_default(request, card_id: str):
    wallet.card_default(tenant=request.tenant, card_id=card_id, actor=request.actor)
    return cards(request)


@router.delete("cards/{card_id}", response=answers(204), summary="Remove a card")
@needs("billing.write")
def card_remove(request, card_id: str):
    wallet.card_remove(tenant=request.tenant, card_id=card_id, actor=request.actor)
    return 204, None


@router.get("invoices", response=answers(200, Page[InvoiceOut]), summary="Invoices, newest first")
@needs("billing.read")
def invoices(request, limit: int = Limit(), after: str | None = None):
    return 200, page(selectors.invoices(request.tenant), order="-created_at", after=after, limit=limit)


@router.get("invoices/{invoice_id}", response=answers(200, InvoiceDetail), summary="An invoice with its lines")
@needs("billing.read")
def invoice(request, invoice_id: str):
    return 200, _detail(selectors.invoice_get(request.tenant, invoice_id))


def _detail(row: Invoice) -> dict:
    return {**InvoiceOut.from_orm(row).dict(), "lines": list(row.lines.all()), "adjustments": list(row.adjustments.all())}


@router.get("invoices/{invoice_id}/lines/{line_id}/entries", response=answers(200, Page[EntryOut]), summary="The ledger's entries behind a usage line")
@needs("billing.read")
def entries(request, invoice_id: str, line_id: int, limit: int = Limit(), after: str | None = None):
    line = selectors.line_get(selectors.invoice_get(request.tenant, invoice_id), line_id)
    return 200, page(selectors.line_entries(line), order="id", after=after, limit=limit)


@router.get("invoices/{invoice_id}/pdf", response=answers(200), summary="The invoice as PDF", openapi_extra=file_answer("application/pdf"))
@needs("billing.read")
def invoice_pdf(request, invoice_id: str):
    return HttpResponse(documents.invoice_pdf(selectors.invoice_get(request.tenant, invoice_id)), content_type="application/pdf")


@router.get("invoices/{invoice_id}/csv", response=answers(200), summary="The invoice's lines as CSV", openapi_extra=file_answer("text/csv"))
@needs("billing.read")
def invoice_csv(request, invoice_id: str):
    return HttpResponse(documents.invoice_csv(selectors.invoice_get(request.tenant, invoice_id)), content_type="text/csv; charset=utf-8")


@router.post("invoices/{invoice_id}/pay", response=answers(200, InvoiceDetail), summary="Pay an open invoice with the default card")
@needs("billing.write")
def invoice_pay(request, invoice_id: str):
    row = selectors.invoice_get(request.tenant, invoice_id)
    return 200, _detail(services.invoice_pay(tenant=request.tenant, invoice=row, actor=request.actor))
