"""The one account of the sandbox, its balance transactions; the name says what it is."""

from __future__ import annotations

from tools.billing_sandbox.forms import Params
from tools.billing_sandbox.sandbox import Sandbox, listing, route

ACCOUNT_ID = "acct_1BillingSandbox"
NO_ADDRESS = {"city": None, "country": None, "line1": None, "line2": None, "postal_code": None, "state": None}


@route("GET", "/v1/account")
def account_get(sandbox: Sandbox, params: Params) -> dict:
    nothing_due = {"alternatives": [], "current_deadline": None, "currently_due": [], "disabled_reason": None, "errors": [], "eventually_due": [],
                   "past_due": [], "pending_verification": []}  # fmt: skip
    return {
        "id": ACCOUNT_ID, "object": "account", "business_type": "company", "country": "US", "default_currency": "usd", "email": "sandbox@localhost",
        "type": "standard", "charges_enabled": True, "payouts_enabled": False, "details_submitted": True, "created": 1_700_000_000, "metadata": {},
        "business_profile": {"mcc": None, "name": "Billing sandbox (stand-in for Stripe)", "product_description": None, "support_address": NO_ADDRESS,
                             "support_email": None, "support_phone": None, "support_url": None, "url": None},
        "capabilities": {"card_payments": "active", "transfers": "inactive"}, "controller": {"type": "account"},
        "external_accounts": listing([], f"/v1/accounts/{ACCOUNT_ID}/external_accounts"), "requirements": nothing_due, "future_requirements": nothing_due,
        "settings": {
            "branding": {"icon": None, "logo": None, "primary_color": None, "secondary_color": None},
            "card_payments": {"decline_on": {"avs_failure": False, "cvc_failure": False}, "statement_descriptor_prefix": "SANDBOX"},
            "dashboard": {"display_name": "Billing sandbox", "timezone": "Etc/UTC"},
            "payments": {"statement_descriptor": "SANDBOX", "statement_descriptor_kana": None, "statement_descriptor_kanji": None},
            "payouts": {"debit_negative_balances": True, "schedule": {"delay_days": 2, "interval": "daily"}, "statement_descriptor": None},
        },
        "tos_acceptance": {"date": None, "ip": None, "user_agent": None},
    }  # fmt: skip


@route("GET", "/v1/accounts/{id}")
def account_by_id(sandbox: Sandbox, params: Params, id: str) -> dict:
    return account_get(sandbox, params)


@route("GET", "/v1/balance_transactions/{id}")
def balance_transaction_get(sandbox: Sandbox, params: Params, id: str) -> dict:
    return sandbox.get("balance_transaction", id)
