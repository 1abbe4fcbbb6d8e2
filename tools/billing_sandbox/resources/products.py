"""Products."""

from __future__ import annotations

from tools.billing_sandbox.errors import StripeError
from tools.billing_sandbox.forms import Params
from tools.billing_sandbox.sandbox import Sandbox, listing, route


@route("POST", "/v1/products")
def product_create(sandbox: Sandbox, params: Params) -> dict:
    id = params.text("id", limit=255) or sandbox.new_id("prod", 14)
    if sandbox.store.get(id):
        raise StripeError(f"Product already exists: {id}", "id", "resource_already_exists")
    product = {
        "id": id, "object": "product", "active": params.boolean("active", True), "created": sandbox.now(), "default_price": None,
        "description": params.text("description"), "images": params.texts("images", []), "livemode": False, "marketing_features": [],
        "metadata": params.mapping("metadata"), "name": params.text("name", required=True), "package_dimensions": None,
        "shippable": params.boolean("shippable"), "statement_descriptor": params.text("statement_descriptor"), "tax_code": params.text("tax_code"),
        "type": params.text("type", "service"), "unit_label": params.text("unit_label"), "updated": sandbox.now(), "url": params.text("url"),
    }  # fmt: skip
    sandbox.save(product, "product.created")
    if "default_price_data" in params:
        from tools.billing_sandbox.resources.prices import price_make

        product["default_price"] = price_make(sandbox, params.child("default_price_data"), product["id"])["id"]
        sandbox.save(product)
    return product


@route("GET", "/v1/products/{id}")
def product_get(sandbox: Sandbox, params: Params, id: str) -> dict:
    return sandbox.get("product", id)


@route("POST", "/v1/products/{id}")
def product_update(sandbox: Sandbox, params: Params, id: str) -> dict:
    product = sandbox.get("product", id)
    for name in ("name", "description", "unit_label", "statement_descriptor", "tax_code", "url"):
        if name in params:
            product[name] = params.text(name, required=name == "name")
    if "active" in params:
        product["active"] = params.boolean("active")
    if "images" in params:
        product["images"] = params.texts("images")
    if "default_price" in params:
        product["default_price"] = sandbox.get("price", params.text("default_price"), "default_price")["id"]
    product["metadata"] = params.mapping("metadata", product["metadata"])
    product["updated"] = sandbox.now()
    return sandbox.save(product, "product.updated")


@route("DELETE", "/v1/products/{id}")
def product_delete(sandbox: Sandbox, params: Params, id: str) -> dict:
    product = sandbox.get("product", id)
    if any(price["product"] == id for price in sandbox.find("price")):
        raise StripeError("This product cannot be deleted because it has one or more user-created prices.", "id")
    sandbox.emit("product.deleted", product)
    sandbox.save({"id": id, "object": "product", "deleted": True})
    return {"id": id, "object": "product", "deleted": True}


@route("GET", "/v1/products")
def product_list(sandbox: Sandbox, params: Params) -> dict:
    active, ids, created = params.boolean("active"), params.texts("ids"), sandbox.created_filter(params)
    return sandbox.page(params, "product", lambda p: (active is None or p["active"] == active) and (ids is None or p["id"] in ids) and created(p))


@route("GET", "/v1/products/{id}/features")
def product_features(sandbox: Sandbox, params: Params, id: str) -> dict:
    sandbox.get("product", id)
    params.integer("limit")
    return listing([], f"/v1/products/{id}/features")
