"""Payment methods: cards by test token only. Card numbers are refused, as Stripe does from a server."""

from __future__ import annotations

from tools.billing_sandbox.cards import CARDS, decline
from tools.billing_sandbox.errors import StripeError
from tools.billing_sandbox.forms import Params
from tools.billing_sandbox.resources.accounts import NO_ADDRESS
from tools.billing_sandbox.resources.customers import address
from tools.billing_sandbox.sandbox import Sandbox, route


def method_make(sandbox: Sandbox, token: str, metadata: dict | None = None) -> dict:
    card = CARDS[token]
    method = {
        "id": sandbox.new_id("pm"), "object": "payment_method", "allow_redisplay": "unspecified",
        "billing_details": {"address": NO_ADDRESS, "email": None, "name": None, "phone": None, "tax_id": None},
        "card": {"brand": card.brand, "checks": {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "unchecked"}, "country": "US",
                 "display_brand": card.brand, "exp_month": 12, "exp_year": 2040, "fingerprint": f"sandbox{card.brand[:5]}{card.last4}", "funding": "credit",
                 "generated_from": None, "last4": card.last4, "networks": {"available": [card.brand], "preferred": None}, "regulated_status": "unregulated",
                 "three_d_secure_usage": {"supported": True}, "wallet": None},
        "created": sandbox.now(), "customer": None, "customer_account": None, "livemode": False, "metadata": metadata or {}, "type": "card",
        "_token": token, "_set_up": False,
    }  # fmt: skip
    return sandbox.save(method)


def method_resolve(sandbox: Sandbox, value: str, param: str = "payment_method") -> dict:
    """A payment method by id, or a new one of a test token such as pm_card_visa. Raises NotFound."""
    if value in CARDS:
        return method_make(sandbox, value)
    return sandbox.get("payment_method", value, param, "PaymentMethod")


def attach(sandbox: Sandbox, method: dict, customer: str) -> dict:
    """Raises CardError for a card that is declined when it is saved, StripeError when it is another customer's."""
    if method["customer"] == customer:
        return method
    if method["customer"]:
        raise StripeError("The payment method you provided has already been attached to a customer.", None, "payment_method_already_attached")
    if method.get("_detached"):
        raise StripeError("This PaymentMethod was previously used without being attached to a Customer or was detached from a Customer, and may not be used again.")
    if code := CARDS[method["_token"]].on_save:
        raise decline(code)
    method["customer"] = customer
    return sandbox.save(method, "payment_method.attached")


@route("POST", "/v1/payment_methods")
def method_create(sandbox: Sandbox, params: Params) -> dict:
    params.text("type", choices=("card",), required=True)
    card = params.child("card")
    token = card.text("token")
    if "number" in card or not token:
        raise StripeError("Sending credit card numbers directly to the Stripe API is generally unsafe; the billing sandbox takes test tokens only, e.g. card[token]=tok_visa.",
                          "card[number]")  # fmt: skip
    if token not in CARDS:
        raise StripeError(f"No such token: '{token}'", "card[token]", "resource_missing")
    method = method_make(sandbox, token, params.mapping("metadata"))
    _billing_details(method, params.child("billing_details"))
    return sandbox.save(method)


def _billing_details(method: dict, params: Params) -> None:
    for name in ("email", "name", "phone"):
        if name in params:
            method["billing_details"][name] = params.text(name)
    if "address" in params:
        method["billing_details"]["address"] = address(params.child("address")) or NO_ADDRESS


@route("GET", "/v1/payment_methods/{id}")
def method_get(sandbox: Sandbox, params: Params, id: str) -> dict:
    return sandbox.get("payment_method", id, "id", "PaymentMethod")


@route("POST", "/v1/payment_methods/{id}")
def method_update(sandbox: Sandbox, params: Params, id: str) -> dict:
    method = method_get(sandbox, params, id)
    _billing_details(method, params.child("billing_details"))
    card = params.child("card")
    for name in ("exp_month", "exp_year"):
        if name in card:
            method["card"][name] = card.integer(name, low=1, high=2100)
    if "allow_redisplay" in params:
        method["allow_redisplay"] = params.text("allow_redisplay", choices=("always", "limited", "unspecified"))
    method["metadata"] = params.mapping("metadata", method["metadata"])
    return sandbox.save(method, "payment_method.updated")


@route("POST", "/v1/payment_methods/{id}/attach")
def method_attach(sandbox: Sandbox, params: Params, id: str) -> dict:
    customer = sandbox.get("customer", params.text("customer", required=True), "customer")
    return attach(sandbox, method_resolve(sandbox, id), customer["id"])


@route("POST", "/v1/payment_methods/{id}/detach")
def method_detach(sandbox: Sandbox, params: Params, id: str) -> dict:
    method = method_get(sandbox, params, id)
    if not method["customer"]:
        raise StripeError("The payment method you provided is not attached to a customer so detachment is impossible.", None, "payment_method_unexpected_state")
    customer = sandbox.get("customer", method["customer"])
    if customer["invoice_settings"]["default_payment_method"] == id:
        settings = customer["invoice_settings"] | {"default_payment_method": None}
        sandbox.save(customer | {"invoice_settings": settings}, "customer.updated")
    for subscription in sandbox.find("subscription", customer=customer["id"]):
        if subscription["default_payment_method"] == id:
            sandbox.save(subscription | {"default_payment_method": None}, "customer.subscription.updated")
    return sandbox.save(method | {"customer": None, "_detached": True}, "payment_method.detached")


@route("GET", "/v1/payment_methods")
def method_list(sandbox: Sandbox, params: Params) -> dict:
    type, customer = params.text("type"), params.text("customer")
    params.text("allow_redisplay")
    return sandbox.page(params, "payment_method", lambda m: bool(m["customer"]) and type in (None, m["type"]), customer=customer)


@route("GET", "/v1/customers/{id}/payment_methods")
def customer_methods(sandbox: Sandbox, params: Params, id: str) -> dict:
    type = params.text("type")
    return sandbox.page(params, "payment_method", lambda m: type in (None, m["type"]), f"/v1/customers/{id}/payment_methods", customer=sandbox.get("customer", id)["id"])


@route("GET", "/v1/customers/{id}/payment_methods/{method}")
def customer_method(sandbox: Sandbox, params: Params, id: str, method: str) -> dict:
    found = method_get(sandbox, params, method)
    return found if found["customer"] == id else method_get(sandbox, params, "")
