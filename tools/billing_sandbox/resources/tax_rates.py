"""Tax rates: percentages that subscriptions, items and invoices name."""

from __future__ import annotations

from tools.billing_sandbox.errors import StripeError, missing
from tools.billing_sandbox.forms import Params
from tools.billing_sandbox.sandbox import Sandbox, route


@route("POST", "/v1/tax_rates")
def tax_rate_create(sandbox: Sandbox, params: Params) -> dict:
    percentage = params.decimal("percentage")
    if percentage is None:
        raise missing("percentage")
    if not 0 <= percentage <= 100:
        raise StripeError("Invalid percentage: must be between 0 and 100.", "percentage")
    if "inclusive" not in params:
        raise missing("inclusive")
    rate = {
        "id": sandbox.new_id("txr"), "object": "tax_rate", "active": params.boolean("active", True), "country": params.text("country"),
        "created": sandbox.now(), "description": params.text("description"), "display_name": params.text("display_name", required=True, limit=50),
        "effective_percentage": None, "flat_amount": None, "inclusive": params.boolean("inclusive"), "jurisdiction": params.text("jurisdiction"),
        "jurisdiction_level": None, "livemode": False, "metadata": params.mapping("metadata"), "percentage": float(percentage), "rate_type": "percentage",
        "state": params.text("state"), "tax_type": params.text("tax_type"),
    }  # fmt: skip
    return sandbox.save(rate, "tax_rate.created")


@route("GET", "/v1/tax_rates/{id}")
def tax_rate_get(sandbox: Sandbox, params: Params, id: str) -> dict:
    return sandbox.get("tax_rate", id)


@route("POST", "/v1/tax_rates/{id}")
def tax_rate_update(sandbox: Sandbox, params: Params, id: str) -> dict:
    rate = sandbox.get("tax_rate", id)
    rate |= {name: params.text(name, rate[name]) for name in ("country", "description", "display_name", "jurisdiction", "state", "tax_type")}
    rate |= {"active": params.boolean("active", rate["active"]), "metadata": params.mapping("metadata", rate["metadata"])}
    return sandbox.save(rate, "tax_rate.updated")


@route("GET", "/v1/tax_rates")
def tax_rate_list(sandbox: Sandbox, params: Params) -> dict:
    active, inclusive = params.boolean("active"), params.boolean("inclusive")
    return sandbox.page(params, "tax_rate", lambda r: active in (None, r["active"]) and inclusive in (None, r["inclusive"]))


def rates_named(sandbox: Sandbox, ids: list[str] | None, param: str) -> list[str]:
    """Checked ids. Raises NotFound."""
    return [sandbox.get("tax_rate", id, param)["id"] for id in ids or []]
