"""Customers, their tax ids and their credit balance."""

from __future__ import annotations

import re

from tools.billing_sandbox.errors import StripeError
from tools.billing_sandbox.forms import Params
from tools.billing_sandbox.resources.accounts import NO_ADDRESS
from tools.billing_sandbox.sandbox import CURRENCIES, Sandbox, included, listing, route, view

TEXTS = ("name", "email", "phone", "description")
TAX_IDS = {"eu_vat": r"[A-Z]{2}[A-Z0-9]{2,12}", "gb_vat": r"(GB|XI)(\d{9}|\d{12}|(GD|HA)\d{3})", "us_ein": r"\d{2}-\d{7}", "ch_vat": r"CHE.*", "no_vat": r"\d{9}MVA",
           "ca_bn": r"\d{9}", "ca_gst_hst": r"\d{9}RT\d{4}", "au_abn": r"\d{11}", "in_gst": r"[A-Z0-9]{15}", "jp_cn": r"\d{13}", "nz_gst": r"\d{8,9}"}  # fmt: skip


@route("POST", "/v1/customers")
def customer_create(sandbox: Sandbox, params: Params) -> dict:
    customer = {
        "id": params.text("id") or sandbox.new_id("cus", 14), "object": "customer", "address": None, "balance": params.integer("balance", 0, low=-10**11),
        "business_name": None, "created": sandbox.now(), "currency": None, "customer_account": None, "default_source": None, "delinquent": False,
        "description": None, "discount": None, "email": None, "individual_name": None, "invoice_prefix": sandbox.new_id("", 8)[1:].upper(),
        "invoice_settings": {"custom_fields": None, "default_payment_method": None, "footer": None, "rendering_options": None}, "livemode": False,
        "metadata": {}, "name": None, "next_invoice_sequence": 1, "phone": None, "preferred_locales": [], "shipping": None, "tax_exempt": "none",
        "test_clock": None,
    }  # fmt: skip
    if sandbox.store.get(customer["id"]):
        raise StripeError("Customer already exists.", "id", "resource_already_exists")
    method = params.text("payment_method")
    taxes = [(p.text("type", required=True), p.text("value", required=True)) for p in params.children("tax_id_data")]
    _take(sandbox, customer, params, check_default=not method)
    sandbox.save(customer, "customer.created")
    for type, value in taxes:
        tax_id_make(sandbox, customer, type, value)
    if method:
        from tools.billing_sandbox.resources.payment_methods import attach, method_resolve

        attach(sandbox, method_resolve(sandbox, method), customer["id"])
    return customer


def _take(sandbox: Sandbox, customer: dict, params: Params, check_default: bool = True) -> None:
    """Put the given parameters into `customer`."""
    customer |= {name: params.text(name, limit=512) for name in TEXTS if name in params}
    if customer["email"] and "@" not in customer["email"]:
        raise StripeError(f"Invalid email address: {customer['email']}", "email", "email_invalid")
    if "address" in params:
        customer["address"] = address(params.child("address"))
    if "shipping" in params:
        shipping = params.child("shipping")
        customer["shipping"] = {"address": address(shipping.child("address")), "name": shipping.text("name"), "phone": shipping.text("phone")}
    if "tax_exempt" in params:
        customer["tax_exempt"] = params.text("tax_exempt", "none", choices=("none", "exempt", "reverse"))
    if "preferred_locales" in params:
        customer["preferred_locales"] = params.texts("preferred_locales")
    params.child("tax").text("ip_address")
    params.child("tax").text("validate_location")
    customer["metadata"] = params.mapping("metadata", customer["metadata"])
    if "invoice_prefix" in params:
        customer["invoice_prefix"] = params.text("invoice_prefix", limit=12)
    _take_invoice_settings(sandbox, customer, params.child("invoice_settings"), check_default)


def _take_invoice_settings(sandbox: Sandbox, customer: dict, params: Params, check: bool) -> None:
    if "default_payment_method" in params:
        method = params.text("default_payment_method")
        if method and check and sandbox.get("payment_method", method, "invoice_settings[default_payment_method]", "PaymentMethod")["customer"] != customer["id"]:
            raise StripeError(f"The customer does not have a payment method with the ID {method}. The payment method must be attached to the customer.",
                              "invoice_settings[default_payment_method]", "resource_missing")  # fmt: skip
        customer["invoice_settings"]["default_payment_method"] = method
    if "footer" in params:
        customer["invoice_settings"]["footer"] = params.text("footer")


def address(params: Params) -> dict | None:
    found = {name: params.text(name, limit=200) for name in NO_ADDRESS}
    if found["country"] and not re.fullmatch(r"[A-Z]{2}", found["country"]):
        raise StripeError(f"Country '{found['country']}' is unknown. Try using a 2-character alphanumeric country code instead.", params.label("country"), "country_code_invalid")
    return found if any(found.values()) else None


@route("GET", "/v1/customers/{id}")
def customer_get(sandbox: Sandbox, params: Params, id: str) -> dict:
    found = sandbox.store.get(id)
    if found and found.get("deleted"):
        return found
    return sandbox.get("customer", id)


@route("POST", "/v1/customers/{id}")
def customer_update(sandbox: Sandbox, params: Params, id: str) -> dict:
    customer = sandbox.get("customer", id)
    if "balance" in params:
        balance_add(sandbox, customer, params.integer("balance", low=-10**11) - customer["balance"], "adjustment")
    _take(sandbox, customer, params)
    if "coupon" in params:
        raise StripeError("Received unknown parameter: coupon", "coupon", "parameter_unknown")
    return sandbox.save(customer, "customer.updated")


@route("DELETE", "/v1/customers/{id}")
def customer_delete(sandbox: Sandbox, params: Params, id: str) -> dict:
    """Cancels the customer's subscriptions at once."""
    from tools.billing_sandbox.lifecycle import subscription_end

    customer = sandbox.get("customer", id)
    for subscription in sandbox.find("subscription", customer=id):
        if subscription["status"] not in ("canceled", "incomplete_expired"):
            subscription_end(sandbox, subscription, "canceled")
    sandbox.emit("customer.deleted", customer)
    sandbox.save({"id": id, "object": "customer", "deleted": True})
    return {"id": id, "object": "customer", "deleted": True}


@route("DELETE", "/v1/customers/{id}/discount")
def discount_delete(sandbox: Sandbox, params: Params, id: str) -> dict:
    customer = sandbox.get("customer", id)
    discount = sandbox.get("discount", customer["discount"])
    sandbox.save(customer | {"discount": None}, "customer.updated")
    sandbox.emit("customer.discount.deleted", discount)
    return discount | {"deleted": True}


@route("GET", "/v1/customers")
def customer_list(sandbox: Sandbox, params: Params) -> dict:
    email, created = params.text("email"), sandbox.created_filter(params)
    return sandbox.page(params, "customer", lambda c: (email is None or c["email"] == email) and created(c))


@route("GET", "/v1/customers/search")
def customer_search(sandbox: Sandbox, params: Params) -> dict:
    """`email:'x'`, `name~'x'` and `metadata['k']:'v'`, joined by AND."""
    return search(sandbox, params, "customer")


def search(sandbox: Sandbox, params: Params, kind: str) -> dict:
    query, limit = params.text("query", required=True), params.integer("limit", 10, low=1, high=100)
    params.text("page")
    clauses = [_clause(part.strip()) for part in re.split(r"\s+AND\s+", query)]
    found = [item for item in sandbox.find(kind) if all(clause(item) for clause in clauses)]
    answer = {"object": "search_result", "data": found[:limit], "has_more": len(found) > limit, "next_page": None, "url": f"/v1/{kind}s/search"}
    return answer


def _clause(text: str):
    match = re.fullmatch(r"(\w+)(?:\[['\"](.+?)['\"]\])?\s*([:~])\s*['\"](.*)['\"]", text)
    if not match:
        raise StripeError(f"We were unable to parse your search query: {text}", "query")
    field, key, sign, value = match.groups()

    def holds(item: dict) -> bool:
        have = (item.get(field) or {}).get(key) if key else item.get(field)
        return have is not None and (value.lower() in str(have).lower() if sign == "~" else str(have) == value)

    return holds


# What shows only when expanded


@included("customer", "subscriptions")
def customer_subscriptions(sandbox: Sandbox, customer: dict) -> dict:
    rows = [s for s in sandbox.find("subscription", customer=customer["id"]) if s["status"] not in ("canceled", "incomplete_expired")]
    return listing([sandbox.render(s) for s in rows], f"/v1/customers/{customer['id']}/subscriptions")


@included("customer", "tax_ids")
def customer_tax_ids(sandbox: Sandbox, customer: dict) -> dict:
    return listing(sandbox.find("tax_id", customer=customer["id"]), f"/v1/customers/{customer['id']}/tax_ids")


@included("customer", "sources")
def customer_sources(sandbox: Sandbox, customer: dict) -> dict:
    return listing([], f"/v1/customers/{customer['id']}/sources")


@included("customer", "invoice_credit_balance")
def invoice_credit_balance(sandbox: Sandbox, customer: dict) -> dict:
    return {customer["currency"]: customer["balance"]} if customer["currency"] and customer["balance"] else {}


@included("customer", "tax")
def customer_tax(sandbox: Sandbox, customer: dict) -> dict:
    country = (customer["address"] or {}).get("country")
    location = {"country": country, "source": "billing_address", "state": (customer["address"] or {}).get("state")} if country else None
    return {"automatic_tax": "supported" if country else "unrecognized_location", "ip_address": None, "location": location, "provider": "stripe"}


@view("customer")
def customer_view(sandbox: Sandbox, customer: dict) -> dict:
    if customer["discount"]:
        customer["discount"] = sandbox.store.get(customer["discount"])
    return customer


# Tax ids


def tax_id_make(sandbox: Sandbox, customer: dict, type: str, value: str) -> dict:
    """Raises StripeError when the value has not the type's form. Nobody is asked whether it exists: `pending` stays."""
    pattern = TAX_IDS.get(type)
    if pattern is None:
        raise StripeError(f"Invalid type: must be one of {', '.join(TAX_IDS)}", "type")
    if not re.fullmatch(pattern, value.replace(" ", "")):
        raise StripeError(f"Invalid value for {type}.", "value", "tax_id_invalid")
    row = {"id": sandbox.new_id("txi"), "object": "tax_id", "country": value[:2] if type == "eu_vat" else type[:2].upper(), "created": sandbox.now(),
           "customer": customer["id"], "customer_account": None, "livemode": False, "owner": {"customer": customer["id"], "customer_account": None, "type": "customer"},
           "type": type, "value": value, "verification": {"status": "pending", "verified_address": None, "verified_name": None}}  # fmt: skip
    return sandbox.save(row, "customer.tax_id.created")


@route("POST", "/v1/customers/{id}/tax_ids")
def tax_id_create(sandbox: Sandbox, params: Params, id: str) -> dict:
    return tax_id_make(sandbox, sandbox.get("customer", id), params.text("type", required=True), params.text("value", required=True))


@route("GET", "/v1/customers/{id}/tax_ids")
def tax_id_list(sandbox: Sandbox, params: Params, id: str) -> dict:
    return sandbox.page(params, "tax_id", url=f"/v1/customers/{id}/tax_ids", customer=sandbox.get("customer", id)["id"])


@route("GET", "/v1/customers/{id}/tax_ids/{tax_id}")
def tax_id_get(sandbox: Sandbox, params: Params, id: str, tax_id: str) -> dict:
    row = sandbox.get("tax_id", tax_id)
    return row if row["customer"] == id else sandbox.get("tax_id", None)


@route("DELETE", "/v1/customers/{id}/tax_ids/{tax_id}")
def tax_id_delete(sandbox: Sandbox, params: Params, id: str, tax_id: str) -> dict:
    row = tax_id_get(sandbox, params, id, tax_id)
    sandbox.emit("customer.tax_id.deleted", row)
    sandbox.store.remove(tax_id)
    return {"id": tax_id, "object": "tax_id", "deleted": True}


@route("GET", "/v1/tax_ids/{id}")
def owned_tax_id_get(sandbox: Sandbox, params: Params, id: str) -> dict:
    return sandbox.get("tax_id", id)


@route("GET", "/v1/tax_ids")
def owned_tax_id_list(sandbox: Sandbox, params: Params) -> dict:
    owner = params.child("owner")
    owner.text("type", choices=("customer", "self"))
    return sandbox.page(params, "tax_id", customer=owner.text("customer"))


# The credit balance: negative = the customer has credit


def balance_add(sandbox: Sandbox, customer: dict, amount: int, type: str, invoice: str | None = None, credit_note: str | None = None,
                description: str | None = None, metadata: dict | None = None) -> dict | None:  # fmt: skip
    """Change `customer`'s balance (cents) and save both; None when there is nothing to change."""
    if amount == 0:
        return None
    customer["balance"] += amount
    customer["currency"] = customer["currency"] or "usd"
    row = {"id": sandbox.new_id("cbtxn"), "object": "customer_balance_transaction", "amount": amount, "checkout_session": None, "created": sandbox.now(),
           "credit_note": credit_note, "currency": customer["currency"], "customer": customer["id"], "customer_account": None, "description": description,
           "ending_balance": customer["balance"], "invoice": invoice, "livemode": False, "metadata": metadata or {}, "type": type}  # fmt: skip
    sandbox.save(customer, "customer.updated")
    return sandbox.save(row)


@route("POST", "/v1/customers/{id}/balance_transactions")
def balance_create(sandbox: Sandbox, params: Params, id: str) -> dict:
    customer = sandbox.get("customer", id)
    currency, amount = params.text("currency", choices=CURRENCIES, required=True), params.integer("amount", required=True, low=-10**11)
    if customer["currency"] not in (None, currency):
        raise StripeError(f"The customer's currency is {customer['currency']}, not {currency}.", "currency")
    if amount == 0:
        raise StripeError("The amount must not be zero.", "amount", "parameter_invalid_integer")
    customer["currency"] = currency
    return balance_add(sandbox, customer, amount, "adjustment", description=params.text("description"), metadata=params.mapping("metadata"))


@route("GET", "/v1/customers/{id}/balance_transactions")
def balance_list(sandbox: Sandbox, params: Params, id: str) -> dict:
    return sandbox.page(params, "customer_balance_transaction", url=f"/v1/customers/{id}/balance_transactions", customer=sandbox.get("customer", id)["id"])


@route("GET", "/v1/customers/{id}/balance_transactions/{transaction}")
def balance_get(sandbox: Sandbox, params: Params, id: str, transaction: str) -> dict:
    row = sandbox.get("customer_balance_transaction", transaction)
    return row if row["customer"] == id else sandbox.get("customer_balance_transaction", None)
