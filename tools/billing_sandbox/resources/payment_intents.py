"""Payment intents, charges and refunds."""

from __future__ import annotations

from tools.billing_sandbox.cards import decline
from tools.billing_sandbox.errors import StripeError
from tools.billing_sandbox.forms import Params
from tools.billing_sandbox.payments import balance_transaction, intent_attempt, intent_fail, intent_make, intent_move, refunds_of
from tools.billing_sandbox.resources.payment_methods import attach, method_resolve
from tools.billing_sandbox.sandbox import CURRENCIES, Sandbox, included, route

REASONS = ("duplicate", "fraudulent", "requested_by_customer")


@route("POST", "/v1/payment_intents")
def intent_create(sandbox: Sandbox, params: Params) -> dict:
    customer, method = params.text("customer"), params.text("payment_method")
    params.texts("payment_method_types")
    params.child("automatic_payment_methods").boolean("enabled")
    intent = intent_make(
        sandbox, amount=params.integer("amount", low=1, high=99_999_999, required=True), currency=params.text("currency", choices=CURRENCIES, required=True),
        customer=sandbox.get("customer", customer, "customer")["id"] if customer else None, payment_method=method_resolve(sandbox, method)["id"] if method else None,
        description=params.text("description"), metadata=params.mapping("metadata"),
        setup_future_usage=params.text("setup_future_usage", choices=("off_session", "on_session")),
    )  # fmt: skip
    off_session, return_url = params.boolean("off_session", False), params.text("return_url")
    if params.boolean("confirm", False):
        confirm(sandbox, intent, off_session=off_session, return_url=return_url)
    return intent


def confirm(sandbox: Sandbox, intent: dict, *, off_session: bool, return_url: str | None = None) -> dict:
    """Raises CardError when the card is declined, or needs its owner while `off_session`."""
    if intent["status"] not in ("requires_payment_method", "requires_confirmation", "requires_action"):
        raise StripeError(f"You cannot confirm this PaymentIntent because it has a status of {intent['status']}.", None, "payment_intent_unexpected_state")
    if not intent["payment_method"]:
        raise StripeError("You cannot confirm this PaymentIntent because it's missing a payment method.", "payment_method", "payment_intent_unexpected_state")
    method = sandbox.get("payment_method", intent["payment_method"])
    intent_attempt(sandbox, intent, method, off_session=off_session, return_url=return_url)
    if intent["status"] == "requires_action" and off_session:
        intent_fail(sandbox, intent, method, "authentication_required")
    if error := intent["last_payment_error"]:
        raise decline(error["decline_code"], charge=error["charge"], payment_intent=sandbox.render(intent))
    if intent["setup_future_usage"] and intent["customer"] and intent["status"] == "succeeded":
        attach(sandbox, sandbox.get("payment_method", intent["payment_method"]), intent["customer"])
    return intent


def authenticate(sandbox: Sandbox, intent: dict, passed: bool) -> dict:
    """The customer passed or failed the card's check on the authentication page."""
    method = sandbox.get("payment_method", intent["payment_method"])
    if passed:
        intent_attempt(sandbox, intent, method, off_session=False, authenticated=True)
    else:
        intent_fail(sandbox, intent, method, "authentication_required")
    return intent


@route("GET", "/v1/payment_intents/{id}")
def intent_get(sandbox: Sandbox, params: Params, id: str) -> dict:
    params.text("client_secret")
    return sandbox.get("payment_intent", id, "intent")


@route("POST", "/v1/payment_intents/{id}")
def intent_update(sandbox: Sandbox, params: Params, id: str) -> dict:
    intent = sandbox.get("payment_intent", id, "intent")
    if "payment_method" in params:
        intent["payment_method"] = method_resolve(sandbox, params.text("payment_method", required=True))["id"]
        intent_move(intent, "requires_confirmation")
    if "description" in params:
        intent["description"] = params.text("description")
    intent["metadata"] = params.mapping("metadata", intent["metadata"])
    return sandbox.save(intent)


@route("POST", "/v1/payment_intents/{id}/confirm")
def intent_confirm(sandbox: Sandbox, params: Params, id: str) -> dict:
    intent = sandbox.get("payment_intent", id, "intent")
    params.text("client_secret")
    params.text("use_stripe_sdk")
    if method := params.text("payment_method"):
        intent["payment_method"] = method_resolve(sandbox, method)["id"]
    return confirm(sandbox, intent, off_session=params.boolean("off_session", False), return_url=params.text("return_url"))


@route("POST", "/v1/payment_intents/{id}/cancel")
def intent_cancel(sandbox: Sandbox, params: Params, id: str) -> dict:
    intent = sandbox.get("payment_intent", id, "intent")
    intent_move(intent, "canceled")
    intent |= {"canceled_at": sandbox.now(), "cancellation_reason": params.text("cancellation_reason"), "next_action": None}
    return sandbox.save(intent, "payment_intent.canceled")


@route("GET", "/v1/payment_intents")
def intent_list(sandbox: Sandbox, params: Params) -> dict:
    return sandbox.page(params, "payment_intent", sandbox.created_filter(params), customer=params.text("customer"))


@route("GET", "/v1/charges/{id}")
def charge_get(sandbox: Sandbox, params: Params, id: str) -> dict:
    return sandbox.get("charge", id)


@route("GET", "/v1/charges")
def charge_list(sandbox: Sandbox, params: Params) -> dict:
    intent, created = params.text("payment_intent"), sandbox.created_filter(params)
    return sandbox.page(params, "charge", lambda c: intent in (None, c["payment_intent"]) and created(c), customer=params.text("customer"))


included("charge", "refunds")(refunds_of)


@route("POST", "/v1/refunds")
def refund_create(sandbox: Sandbox, params: Params) -> dict:
    """Whole or in parts, never more than was paid."""
    intent, charge_id = params.text("payment_intent"), params.text("charge")
    if not charge_id:
        charge_id = sandbox.get("payment_intent", intent, "payment_intent")["latest_charge"] if intent else None
    charge = sandbox.get("charge", charge_id, "charge")
    left = charge["amount_captured"] - charge["amount_refunded"]
    if not charge["paid"] or left == 0:
        code = "charge_already_refunded" if charge["paid"] else "charge_not_paid"
        raise StripeError(f"Charge {charge['id']} has already been refunded." if charge["paid"] else f"Charge {charge['id']} was not paid.", "charge", code)
    amount = params.integer("amount", left, low=1)
    if amount > left:
        raise StripeError(f"Refund amount ({amount}) is greater than unrefunded amount on charge ({left}).", "amount")
    return refund_make(sandbox, charge, amount, params.text("reason", choices=REASONS), params.mapping("metadata"))


def refund_make(sandbox: Sandbox, charge: dict, amount: int, reason: str | None = None, metadata: dict | None = None) -> dict:
    refund = {
        "id": sandbox.new_id("re"), "object": "refund", "amount": amount, "balance_transaction": None, "charge": charge["id"], "created": sandbox.now(),
        "currency": charge["currency"], "customer": charge["customer"], "customer_account": None,
        "destination_details": {"card": {"reference": "sandbox", "reference_status": "available", "reference_type": "acquirer_reference_number", "type": "refund"}, "type": "card"},
        "metadata": metadata or {}, "payment_intent": charge["payment_intent"], "payment_method": charge["payment_method"], "reason": reason,
        "receipt_number": None, "source_transfer_reversal": None, "status": "succeeded", "transfer_reversal": None,
    }  # fmt: skip
    refund["balance_transaction"] = balance_transaction(sandbox, refund["id"], -amount, charge["currency"], "refund")
    sandbox.save(refund, "refund.created")
    charge["amount_refunded"] += amount
    charge["refunded"] = charge["amount_refunded"] == charge["amount_captured"]
    sandbox.save(charge, "charge.refunded")
    return refund


@route("GET", "/v1/refunds/{id}")
def refund_get(sandbox: Sandbox, params: Params, id: str) -> dict:
    return sandbox.get("refund", id)


@route("GET", "/v1/refunds")
def refund_list(sandbox: Sandbox, params: Params) -> dict:
    charge, intent = params.text("charge"), params.text("payment_intent")
    return sandbox.page(params, "refund", lambda r: charge in (None, r["charge"]) and intent in (None, r["payment_intent"]))
