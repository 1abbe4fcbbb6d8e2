"""Events, and the webhook endpoints they are sent to."""

from __future__ import annotations

from tools.billing_sandbox.errors import StripeError
from tools.billing_sandbox.forms import Params
from tools.billing_sandbox.sandbox import API_VERSION, Sandbox, route

MAX_ENDPOINTS = 16


@route("GET", "/v1/events/{id}")
def event_get(sandbox: Sandbox, params: Params, id: str) -> dict:
    return sandbox.get("event", id)


@route("GET", "/v1/events")
def event_list(sandbox: Sandbox, params: Params) -> dict:
    type, types, created = params.text("type"), params.texts("types"), sandbox.created_filter(params)
    params.boolean("delivery_success")

    def keep(event: dict) -> bool:
        named = type is None or event["type"] == type or type.endswith("*") and event["type"].startswith(type[:-1])
        return named and (types is None or event["type"] in types) and created(event)

    return sandbox.page(params, "event", keep)


def endpoint_make(sandbox: Sandbox, url: str, events: list[str], secret: str = "", description: str | None = None, metadata: dict | None = None,
                  api_version: str | None = None) -> dict:  # fmt: skip
    if not url.startswith(("http://", "https://")):
        raise StripeError(f"Invalid URL: {url}", "url", "url_invalid")
    if len(sandbox.find("webhook_endpoint")) >= MAX_ENDPOINTS:
        raise StripeError(f"You have reached the maximum of {MAX_ENDPOINTS} webhook endpoints.", "url")
    endpoint = {"id": sandbox.new_id("we"), "object": "webhook_endpoint", "api_version": api_version or API_VERSION, "application": None, "created": sandbox.now(),
                "description": description, "enabled_events": events, "livemode": False, "metadata": metadata or {}, "status": "enabled", "url": url,
                "_secret": secret or sandbox.new_id("whsec", 32)}  # fmt: skip
    return sandbox.save(endpoint)


@route("POST", "/v1/webhook_endpoints")
def endpoint_create(sandbox: Sandbox, params: Params) -> dict:
    """The only answer that shows the signing secret."""
    params.boolean("connect")
    endpoint = endpoint_make(sandbox, params.text("url", required=True), params.texts("enabled_events", ["*"]), description=params.text("description"),
                             metadata=params.mapping("metadata"), api_version=params.text("api_version"))  # fmt: skip
    return endpoint | {"secret": endpoint["_secret"]}


@route("GET", "/v1/webhook_endpoints/{id}")
def endpoint_get(sandbox: Sandbox, params: Params, id: str) -> dict:
    return sandbox.get("webhook_endpoint", id)


@route("POST", "/v1/webhook_endpoints/{id}")
def endpoint_update(sandbox: Sandbox, params: Params, id: str) -> dict:
    endpoint = sandbox.get("webhook_endpoint", id)
    if "disabled" in params:
        endpoint["status"] = "disabled" if params.boolean("disabled") else "enabled"
    endpoint |= {"url": params.text("url", endpoint["url"]), "description": params.text("description", endpoint["description"])}
    endpoint |= {"enabled_events": params.texts("enabled_events", endpoint["enabled_events"]), "metadata": params.mapping("metadata", endpoint["metadata"])}
    return sandbox.save(endpoint)


@route("DELETE", "/v1/webhook_endpoints/{id}")
def endpoint_delete(sandbox: Sandbox, params: Params, id: str) -> dict:
    sandbox.get("webhook_endpoint", id)
    sandbox.store.remove(id)
    return {"id": id, "object": "webhook_endpoint", "deleted": True}


@route("GET", "/v1/webhook_endpoints")
def endpoint_list(sandbox: Sandbox, params: Params) -> dict:
    return sandbox.page(params, "webhook_endpoint")
