"""Plan, cards and invoices of a workspace. They work while it is suspended: that is where it is paid."""

from __future__ import annotations

from urllib.parse import urlencode

from django.conf import settings
from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from apps.billing import documents, selectors, services, stripe, wallet
from apps.billing.events import invoice_follow
from apps.billing.models import Currency, Interval, Plan
from apps.billing.terms import version_in_force
from apps.common.errors import AuthenticationRequired, ProviderUnavailable, VivavoceError
from apps.portal.forms import Tax
from apps.portal.views.access import in_workspace


@in_workspace("billing.read", any_status=True)
@require_safe
def billing(request: HttpRequest, tenant) -> HttpResponse:
    """With ?plan=… or ?addon=… the preview of that change."""
    row, problem, cards = services.subscription_get(tenant), "", []
    try:
        cards = wallet.card_list(tenant)
    except ProviderUnavailable as error:
        problem = error.message
    currency = row.currency if row and row.currency else request.GET.get("currency", "usd")
    currency = currency if currency in Currency.values else "usd"
    context = {
        "tenant": tenant, "row": row, "in_force": row and version_in_force(row), "cards": cards, "problem": problem, "sandbox": stripe.SANDBOX,
        "currency": currency, "currencies": Currency.choices,
        "plans": [(plan, [p for p in plan.current.prices.all() if p.currency == currency]) for plan in services.plans_offered(tenant)],
        "addons": _addons(tenant, row, currency), "invoices": Paginator(selectors.invoices(tenant), 20).get_page(request.GET.get("page")),
        "may_write": request.actor.can("billing.write"), "tax": Tax(initial=row.tax if row else {}), "tax_now": row.tax if row else {},
        "trial": row is None or row.status in ("none", "free") and not row.trial_used,
    }  # fmt: skip
    return render(request, "portal/billing.html", context | _preview(request, tenant, currency))


def _addons(tenant, row, currency: str) -> list[tuple]:
    held = {a.version.plan_id: a.quantity for a in row.addons.select_related("version")} if row else {}
    interval = row.price.interval if row and row.price else Interval.MONTH
    return [(plan, plan.current.price(currency, interval), held.get(plan.code, 0)) for plan in services.plans_offered(tenant, Plan.Kind.ADDON)]


def _preview(request: HttpRequest, tenant, currency: str) -> dict:
    plan, interval = request.GET.get("plan", ""), request.GET.get("interval", "month")
    addon, quantity = request.GET.get("addon", ""), _quantity(request.GET)
    if not plan and not addon:
        return {}
    try:
        if addon:
            found, quote = services.addon_preview(tenant=tenant, addon=addon, quantity=quantity, actor=request.actor)
            return {"preview": found, "quote": quote, "asked_addon": {"addon": addon, "quantity": quantity}}
        change, found, quote = services.plan_preview(tenant=tenant, plan=plan, interval=interval, currency=currency, actor=request.actor)
    except VivavoceError as error:
        return {"preview_problem": error.message}
    return {"change": change, "preview": found, "quote": quote, "asked": {"plan": plan, "interval": interval, "currency": currency}}


def _quantity(values) -> int:
    text = values.get("quantity", "")
    return int(text) if text.isdecimal() and len(text) < 4 else -1


@in_workspace("billing.write", any_status=True)
@require_POST
def billing_act(request: HttpRequest, tenant, what: str) -> HttpResponse:
    """plan, cancel, keep, trial, addon or tax"""
    post, common = request.POST, {"tenant": tenant, "actor": request.actor}
    if what == "plan":
        asked = {n: post.get(n, "") for n in ("plan", "interval", "currency", "quote")}
        row = services.plan_change(**common, **asked)
        said = "Your bank wants you to confirm the payment: open the invoice below." if row.status == "incomplete" else "Done: see your plan below."
    elif what == "cancel":
        said = f"Cancelled. Everything stays until {services.plan_cancel(**common).period_end:%Y-%m-%d}."
    elif what == "keep":
        services.plan_keep(**common)
        said = "Taken back: your plan goes on."
    elif what == "trial":
        said = f"The trial runs until {services.trial_start(**common, currency=post.get('currency', '')).trial_end:%Y-%m-%d}."
    elif what == "addon":
        services.addon_set(**common, addon=post.get("addon", ""), quantity=_quantity(post), quote=post.get("quote", ""))
        said = "Done: it counts at once."
    else:
        form = Tax(post)
        if not form.is_valid():
            messages.error(request, "; ".join(f"{name}: {errors[0]}" for name, errors in form.errors.items()))
            return redirect("billing", slug=tenant.slug)
        services.tax_set(**common, **form.cleaned_data)
        said = "Saved: the next invoices carry it."
    messages.success(request, said)
    return redirect("billing", slug=tenant.slug)


# Cards



@in_workspace("billing.write", any_status=True)
@require_POST
def card_new(request: HttpRequest, tenant) -> HttpResponse:
    """To the provider's form: the sandbox's page, or Stripe Elements. A card number never comes here."""
    _, secret = wallet.card_begin(tenant=tenant, actor=request.actor)
    return _confirm(request, tenant, secret, reverse("card-return", kwargs={"slug": tenant.slug}), "setup")


def _confirm(request: HttpRequest, tenant, secret: str, back: str, kind: str) -> HttpResponse:
    back = request.build_absolute_uri(back)
    if stripe.SANDBOX:
        return redirect(f"{settings.BILLING_SANDBOX_URL}/_sandbox/confirm?" + urlencode({"client_secret": secret, "return_url": back}))
    page = render(request, "portal/card_form.html", {"tenant": tenant, "secret": secret, "public_key": settings.STRIPE_PUBLIC_KEY, "back": back, "kind": kind})
    page._csp_update = {"script-src": ["https://js.stripe.com"], "frame-src": ["https://js.stripe.com", "https://hooks.stripe.com"],
                        "connect-src": ["https://api.stripe.com"]}  # fmt: skip
    return page


@in_workspace("billing.write", any_status=True)
@require_safe
def card_return(request: HttpRequest, tenant) -> HttpResponse:
    """Where the provider's form leads back to."""
    setup = request.GET.get("setup_intent", "")
    if not setup:
        return billing(request, slug=tenant.slug)
    status = wallet.card_finish(tenant=tenant, setup_id=setup, actor=request.actor)
    if status == "succeeded":
        messages.success(request, "The card is saved.")
    else:
        messages.error(request, "The card was not saved: it was declined or not confirmed. Try another.")
    return redirect("billing", slug=tenant.slug)


@in_workspace("billing.write", any_status=True)
@require_POST
def card_act(request: HttpRequest, tenant, card_id: str, what: str) -> HttpResponse:
    """default or remove"""
    act = wallet.card_default if what == "default" else wallet.card_remove
    act(tenant=tenant, card_id=card_id, actor=request.actor)
    return redirect("billing", slug=tenant.slug)


# Invoices


@in_workspace("billing.read", any_status=True)
@require_safe
def invoice(request: HttpRequest, tenant, invoice_id: str) -> HttpResponse:
    found = selectors.invoice_get(tenant, invoice_id)
    if request.GET.get("payment_intent") and found.status == "open":  # back from the bank
        found = invoice_follow(tenant.id, found.provider_id)
    return render(request, "portal/invoice.html", {
        "tenant": tenant, "invoice": found, "lines": found.lines.all(), "adjustments": found.adjustments.all(), "sandbox": stripe.SANDBOX and found.provider_id,
        "may_write": request.actor.can("billing.write"),
    })  # fmt: skip


@in_workspace("billing.read", any_status=True)
@require_safe
def invoice_line(request: HttpRequest, tenant, invoice_id: str, line_id: int) -> HttpResponse:
    """The ledger's entries behind a line, each with its session and turn."""
    found = selectors.invoice_get(tenant, invoice_id)
    line = selectors.line_get(found, line_id)
    entries = Paginator(selectors.line_entries(line), 100).get_page(request.GET.get("page"))
    return render(request, "portal/invoice_line.html", {"tenant": tenant, "invoice": found, "line": line, "page": entries})


@in_workspace("billing.read", any_status=True)
@require_safe
def invoice_file(request: HttpRequest, tenant, invoice_id: str, kind: str) -> HttpResponse:
    """pdf or csv"""
    found = selectors.invoice_get(tenant, invoice_id)
    body, content_type = (documents.invoice_pdf(found), "application/pdf") if kind == "pdf" else (documents.invoice_csv(found), "text/csv; charset=utf-8")
    return HttpResponse(body, content_type=content_type, headers={"Content-Disposition": f'attachment; filename="{documents.file_name(found)}.{kind}"'})


@in_workspace("billing.write", any_status=True)
@require_POST
def invoice_pay(request: HttpRequest, tenant, invoice_id: str) -> HttpResponse:
    found = selectors.invoice_get(tenant, invoice_id)
    try:
        services.invoice_pay(tenant=tenant, invoice=found, actor=request.actor)
    except AuthenticationRequired:
        secret = stripe.confirmation_secret(found.provider_id)
        return _confirm(request, tenant, secret, reverse("invoice", kwargs={"slug": tenant.slug, "invoice_id": found.id}), "payment")
    messages.success(request, "Paid. Thank you.")
    return redirect("invoice", slug=tenant.slug, invoice_id=found.id)
