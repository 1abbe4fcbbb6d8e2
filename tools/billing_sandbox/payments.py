"""Payment intents and charges: one attempt to take money from a card, and who is told how it ended."""

from __future__ import annotations

from collections.abc import Callable

from tools.billing_sandbox.cards import CARDS, DECLINES, Card
from tools.billing_sandbox.errors import StripeError
from tools.billing_sandbox.resources.accounts import NO_ADDRESS
from tools.billing_sandbox.sandbox import Sandbox, listing

OUTCOMES: list[Callable[[Sandbox, dict], None]] = []  # told of each attempt's payment intent: succeeded, failed or waiting for the customer

INTENT = {  # what may follow which status
    "requires_payment_method": {"requires_confirmation", "requires_action", "succeeded", "canceled"},
    "requires_confirmation": {"requires_payment_method", "requires_action", "succeeded", "canceled"},
    "requires_action": {"requires_payment_method", "succeeded", "canceled"},
    "succeeded": set(),
    "canceled": set(),
}


def intent_move(intent: dict, status: str) -> None:
    """Raises StripeError on a move the state machine does not have."""
    if status != intent["status"] and status not in INTENT[intent["status"]]:
        raise StripeError(f"This PaymentIntent's status is {intent['status']}; it cannot become {status}.", None, "payment_intent_unexpected_state")
    intent["status"] = status


def intent_make(sandbox: Sandbox, *, amount: int, currency: str, customer: str | None, payment_method: str | None = None, description: str | None = None,
                metadata: dict | None = None, invoice: str | None = None, setup_future_usage: str | None = None) -> dict:  # fmt: skip
    id = sandbox.new_id("pi")
    intent = {
        "id": id, "object": "payment_intent", "amount": amount, "amount_capturable": 0, "amount_details": {"tip": {}}, "amount_received": 0,
        "application": None, "application_fee_amount": None, "automatic_payment_methods": None, "canceled_at": None, "cancellation_reason": None,
        "capture_method": "automatic", "client_secret": f"{id}_secret_{sandbox.new_id('')[1:]}", "confirmation_method": "automatic",
        "created": sandbox.now(), "currency": currency, "customer": customer, "customer_account": None, "description": description,
        "excluded_payment_method_types": None, "last_payment_error": None, "latest_charge": None, "livemode": False, "metadata": metadata or {},
        "next_action": None, "on_behalf_of": None, "payment_method": payment_method, "payment_method_configuration_details": None,
        "payment_method_options": {"card": {"request_three_d_secure": "automatic"}}, "payment_method_types": ["card"], "processing": None,
        "receipt_email": None, "review": None, "setup_future_usage": setup_future_usage, "shipping": None, "source": None,
        "statement_descriptor": None, "statement_descriptor_suffix": None,
        "status": "requires_confirmation" if payment_method else "requires_payment_method", "transfer_data": None, "transfer_group": None, "_invoice": invoice,
    }  # fmt: skip
    return sandbox.save(intent, "payment_intent.created")


def intent_attempt(sandbox: Sandbox, intent: dict, method: dict, *, off_session: bool, authenticated: bool = False, return_url: str | None = None) -> None:
    """Try to take the money now. Afterwards the intent has succeeded, waits for the customer, or wants another payment method; nothing is raised."""
    card: Card = CARDS[method["_token"]]
    intent |= {"payment_method": method["id"], "next_action": None, "last_payment_error": None}
    waits = card.authentication == "always" or (card.authentication == "setup" and not method.get("_set_up"))
    if waits and not authenticated:
        intent_move(intent, "requires_action")
        intent["next_action"] = next_action(sandbox, intent, return_url)
        sandbox.save(intent, "payment_intent.requires_action")
    elif card.on_charge:
        intent_fail(sandbox, intent, method, card.on_charge)
    else:
        intent_move(intent, "succeeded")
        charge = _charge(sandbox, intent, method)
        intent |= {"amount_received": intent["amount"], "latest_charge": charge["id"]}
        sandbox.save(intent)
        sandbox.save(charge, "charge.succeeded")
        sandbox.emit("payment_intent.succeeded", intent)
    if intent["status"] != "requires_payment_method":  # a failure was told where it happened
        _tell(sandbox, intent)


def _tell(sandbox: Sandbox, intent: dict) -> None:
    for tell in OUTCOMES:
        tell(sandbox, intent)


def intent_fail(sandbox: Sandbox, intent: dict, method: dict, code: str) -> None:
    intent_move(intent, "requires_payment_method")
    charge = _charge(sandbox, intent, method, code)
    error_code, message = DECLINES[code]
    intent |= {"latest_charge": charge["id"], "payment_method": None, "next_action": None, "last_payment_error": {
        "type": "card_error", "code": error_code, "decline_code": code, "message": message, "charge": charge["id"],
        "payment_method": sandbox.render(method), "doc_url": f"https://stripe.com/docs/error-codes/{error_code.replace('_', '-')}"}}  # fmt: skip
    sandbox.save(intent)
    sandbox.save(charge, "charge.failed")
    sandbox.emit("payment_intent.payment_failed", intent)
    _tell(sandbox, intent)


def next_action(sandbox: Sandbox, intent: dict, return_url: str | None) -> dict:
    return {"type": "redirect_to_url", "redirect_to_url": {"return_url": return_url, "url": f"{sandbox.base_url}/_sandbox/authenticate?client_secret={intent['client_secret']}"}}


def _charge(sandbox: Sandbox, intent: dict, method: dict, declined: str = "") -> dict:
    id, card = sandbox.new_id("ch"), method["card"]
    error_code, message = DECLINES[declined] if declined else (None, None)
    outcome = {"advice_code": None, "network_advice_code": None, "network_decline_code": None, "network_status": "declined_by_network" if declined else "approved_by_network",
               "reason": declined or None, "risk_level": "normal", "seller_message": "The bank did not return any further details with this decline." if declined else "Payment complete.",
               "type": "issuer_declined" if declined else "authorized"}  # fmt: skip
    details = {"brand": card["brand"], "last4": card["last4"], "exp_month": card["exp_month"], "exp_year": card["exp_year"], "country": "US",
               "funding": card["funding"], "fingerprint": card["fingerprint"], "network": card["brand"], "three_d_secure": None, "wallet": None}  # fmt: skip
    charge = {
        "id": id, "object": "charge", "amount": intent["amount"], "amount_captured": 0 if declined else intent["amount"], "amount_refunded": 0,
        "application": None, "application_fee": None, "application_fee_amount": None, "balance_transaction": None,
        "billing_details": {"address": NO_ADDRESS, "email": None, "name": None, "phone": None, "tax_id": None},
        "calculated_statement_descriptor": "SANDBOX", "captured": not declined, "created": sandbox.now(), "currency": intent["currency"],
        "customer": intent["customer"], "description": intent["description"], "disputed": False, "failure_balance_transaction": None,
        "failure_code": error_code, "failure_message": message, "fraud_details": {}, "livemode": False, "metadata": intent["metadata"],
        "on_behalf_of": None, "outcome": outcome, "paid": not declined, "payment_intent": intent["id"], "payment_method": method["id"],
        "payment_method_details": {"card": details, "type": "card"}, "radar_options": {}, "receipt_email": None, "receipt_number": None,
        "receipt_url": None, "refunded": False, "review": None, "shipping": None, "source": None, "source_transfer": None,
        "statement_descriptor": None, "statement_descriptor_suffix": None, "status": "failed" if declined else "succeeded", "transfer_data": None,
        "transfer_group": None, "_invoice": intent.get("_invoice"),
    }  # fmt: skip
    if not declined:
        charge["balance_transaction"] = balance_transaction(sandbox, id, intent["amount"], intent["currency"], "charge")
    return sandbox.save(charge)


def balance_transaction(sandbox: Sandbox, source: str, amount: int, currency: str, type: str) -> str:
    """The money's line in the account's balance; the sandbox charges no fees."""
    row = {"id": sandbox.new_id("txn"), "object": "balance_transaction", "amount": amount, "available_on": sandbox.now(), "balance_type": "payments",
           "created": sandbox.now(), "currency": currency, "description": None, "exchange_rate": None, "fee": 0, "fee_details": [], "net": amount,
           "reporting_category": type, "source": source, "status": "available", "type": type}  # fmt: skip
    return sandbox.save(row)["id"]


def refunds_of(sandbox: Sandbox, charge: dict) -> dict:
    rows = [sandbox.render(r) for r in sandbox.find("refund", customer=charge["customer"] or "") if r["charge"] == charge["id"]]
    return listing(rows, f"/v1/charges/{charge['id']}/refunds")
