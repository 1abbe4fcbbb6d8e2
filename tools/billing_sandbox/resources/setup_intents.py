"""Setup intents: save a card for later, with authentication where the card wants it."""

from __future__ import annotations

from tools.billing_sandbox.cards import CARDS, DECLINES, decline
from tools.billing_sandbox.errors import StripeError
from tools.billing_sandbox.forms import Params
from tools.billing_sandbox.payments import next_action
from tools.billing_sandbox.resources.payment_methods import attach, method_resolve
from tools.billing_sandbox.sandbox import Sandbox, route

OPEN = ("requires_payment_method", "requires_confirmation", "requires_action")


@route("POST", "/v1/setup_intents")
def setup_create(sandbox: Sandbox, params: Params) -> dict:
    customer, method = params.text("customer"), params.text("payment_method")
    automatic = params.child("automatic_payment_methods")
    intent = setup_make(
        sandbox, customer=sandbox.get("customer", customer, "customer")["id"] if customer else None,
        method=method_resolve(sandbox, method)["id"] if method else None, usage=params.text("usage", "off_session", choices=("off_session", "on_session")),
        automatic={"allow_redirects": automatic.text("allow_redirects", "always"), "enabled": automatic.boolean("enabled")} if "automatic_payment_methods" in params else None,
        types=params.texts("payment_method_types", ["card"]), description=params.text("description"), metadata=params.mapping("metadata"),
    )  # fmt: skip
    if params.boolean("confirm", False):
        setup_confirm_with(sandbox, intent, params.text("return_url"))
    return intent


def setup_make(sandbox: Sandbox, *, customer: str | None, method: str | None = None, usage: str = "off_session", automatic: dict | None = None,
               types: list[str] | None = None, description: str | None = None, metadata: dict | None = None) -> dict:  # fmt: skip
    id = sandbox.new_id("seti")
    intent = {
        "id": id, "object": "setup_intent", "application": None, "automatic_payment_methods": automatic, "cancellation_reason": None,
        "client_secret": f"{id}_secret_{sandbox.new_id('')[1:]}", "created": sandbox.now(), "customer": customer, "customer_account": None,
        "description": description, "excluded_payment_method_types": None, "flow_directions": None, "last_setup_error": None, "latest_attempt": None,
        "livemode": False, "mandate": None, "metadata": metadata or {}, "next_action": None, "on_behalf_of": None, "payment_method": method,
        "payment_method_configuration_details": None, "payment_method_options": {"card": {"mandate_options": None, "network": None, "request_three_d_secure": "automatic"}},
        "payment_method_types": types or ["card"], "single_use_mandate": None, "status": "requires_confirmation" if method else "requires_payment_method",
        "usage": usage,
    }  # fmt: skip
    return sandbox.save(intent, "setup_intent.created")


def setup_confirm_with(sandbox: Sandbox, intent: dict, return_url: str | None = None, authenticated: bool | None = None) -> dict:
    """Confirm with the intent's payment method; `authenticated`: the customer passed (True) or failed (False) the card's check.

    Raises CardError when the card is declined."""
    if intent["status"] not in OPEN:
        raise StripeError(f"You cannot confirm this SetupIntent because it has a status of {intent['status']}.", None, "setup_intent_unexpected_state")
    if not intent["payment_method"]:
        raise StripeError("You cannot confirm this SetupIntent because it's missing a payment method.", "payment_method", "setup_intent_unexpected_state")
    method = sandbox.get("payment_method", intent["payment_method"])
    card = CARDS[method["_token"]]
    if card.on_save or authenticated is False:
        code = card.on_save or "authentication_required"
        error_code, message = DECLINES[code]
        if authenticated is False:
            error_code, message = "setup_intent_authentication_failure", "We are unable to authenticate your payment method. Choose a different payment method and try again."
        error = {"type": "card_error", "code": error_code, "decline_code": code, "message": message, "payment_method": sandbox.render(method)}
        intent |= {"status": "requires_payment_method", "payment_method": None, "next_action": None, "last_setup_error": error}
        sandbox.save(intent, "setup_intent.setup_failed")
        if authenticated is False:
            return intent
        raise decline(code, setup_intent=sandbox.render(intent))
    if card.authentication and authenticated is None:
        intent |= {"status": "requires_action", "next_action": next_action(sandbox, intent, return_url)}
        return sandbox.save(intent, "setup_intent.requires_action")
    if intent["customer"]:
        method = attach(sandbox, method, intent["customer"])
    sandbox.save(method | {"_set_up": True})
    intent |= {"status": "succeeded", "next_action": None, "last_setup_error": None}
    return sandbox.save(intent, "setup_intent.succeeded")


@route("GET", "/v1/setup_intents/{id}")
def setup_get(sandbox: Sandbox, params: Params, id: str) -> dict:
    params.text("client_secret")
    return sandbox.get("setup_intent", id, "intent")


@route("POST", "/v1/setup_intents/{id}")
def setup_update(sandbox: Sandbox, params: Params, id: str) -> dict:
    intent = sandbox.get("setup_intent", id, "intent")
    if "payment_method" in params:
        method = params.text("payment_method")
        intent |= {"payment_method": method_resolve(sandbox, method)["id"] if method else None}
        intent["status"] = "requires_confirmation" if method else "requires_payment_method"
    if "customer" in params:
        intent["customer"] = sandbox.get("customer", params.text("customer"), "customer")["id"]
    if "description" in params:
        intent["description"] = params.text("description")
    intent["metadata"] = params.mapping("metadata", intent["metadata"])
    return sandbox.save(intent)


@route("POST", "/v1/setup_intents/{id}/confirm")
def setup_confirm(sandbox: Sandbox, params: Params, id: str) -> dict:
    intent = sandbox.get("setup_intent", id, "intent")
    params.text("client_secret")
    params.text("use_stripe_sdk")
    if method := params.text("payment_method"):
        intent["payment_method"] = method_resolve(sandbox, method)["id"]
    return setup_confirm_with(sandbox, intent, params.text("return_url"))


@route("POST", "/v1/setup_intents/{id}/cancel")
def setup_cancel(sandbox: Sandbox, params: Params, id: str) -> dict:
    intent = sandbox.get("setup_intent", id, "intent")
    if intent["status"] not in OPEN:
        raise StripeError(f"You cannot cancel this SetupIntent because it has a status of {intent['status']}.", None, "setup_intent_unexpected_state")
    intent |= {"status": "canceled", "cancellation_reason": params.text("cancellation_reason"), "next_action": None}
    return sandbox.save(intent, "setup_intent.canceled")


@route("GET", "/v1/setup_intents")
def setup_list(sandbox: Sandbox, params: Params) -> dict:
    method, created = params.text("payment_method"), sandbox.created_filter(params)
    return sandbox.page(params, "setup_intent", lambda s: method in (None, s["payment_method"]) and created(s), customer=params.text("customer"))
