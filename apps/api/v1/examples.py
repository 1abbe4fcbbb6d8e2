"""Examples of the OpenAPI document: one of each schema that answers hold, one of each error; the document is filled from here.

tests/integration/test_api.py: each operation has one for every answer it declares, and each is valid and whole by its schema.
"""

from typing import Any

AT, LATER = "2026-11-25T12:00:00Z", "2026-12-25T12:00:00Z"
TENANT, USER, KEY, AGENT = "ten_5f0c3a9be1d24c7783aa19f2", "usr_91be02c4d7f34a5c8e6d1f03", "key_2c8f51d0a9b74e36b1c05d7a", "agt_7d41c0e2b5a9468f93e2ab10"
SESSION, MEMBER, IMPERSONATION = "sess_0b7c9d4e1f2a43568bcdef01", "mem_64d0fe21a3b94c5d8f7e6a12", "imp_3e9a7c51b0d24f68a1c2e3f4"
DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
UNITS = {"session_ms": 184200, "audio_in_ms": 61000, "tokens_in": 5120}

WORKSPACE = {"slug": "adas-bakery", "name": "Ada's Bakery", "status": "active"}
KEY_ROW = {"id": KEY, "name": "production", "prefix": "Xa9fK2pQ", "scopes": ["audio:write", "realtime:connect"], "limits": {"concurrent_sessions": 5},
           "allowed_origins": ["https://app.example.com"], "state": "active", "created_at": AT, "expires_at": None, "revoked_at": None, "last_used_at": AT,
           "last_used_ip": "203.0.113.7"}  # fmt: skip
VERSION = {"number": 2, "published_at": AT, "instructions": "You are the front desk of Ada's Bakery. Answer briefly.", "greeting": "Ada's Bakery, good morning!", "voice": "alloy",
           "language": "en", "stt_engine": "", "stt_model": "", "llm_engine": "", "llm_model": "", "tts_engine": "", "tts_model": "",
           "turn_detection": {"type": "server_vad", "silence_duration_ms": 500}, "tools": [], "limits": {}, "fallbacks": {}}  # fmt: skip
IMPERSONATED = {"id": IMPERSONATION, "tenant_id": TENANT, "user_id": USER, "user_email": "ada@example.com", "by": KEY, "reason": "ticket 1842: usage looks wrong",
                "writable": False, "state": "active", "created_at": AT, "expires_at": "2026-11-25T12:30:00Z", "ended_at": None}  # fmt: skip
ITEM = {"id": "item_1", "type": "message", "role": "user", "content": [{"type": "input_text", "text": "what is seven plus five"}]}
VOICE_SESSION = {"id": SESSION, "agent_id": AGENT, "agent_version": 2, "key_id": KEY, "model": "default", "client": "203.0.113.7",
                 "tracing": {"workflow_name": "orders", "group_id": "crm-4711"}, "state": "closed", "opened_at": AT,
                 "closed_at": "2026-11-25T12:03:04Z", "close_reason": "client", "session_ms": 184200}  # fmt: skip
PREVIEW_LINE = {"description": "Pro, the rest of the month", "amount": 2450}
INVOICE = {"id": "ivc_4a1d9c02e7b85f36ad01c9e2", "number": "VV-2026-0042", "status": "paid", "reason": "subscription_cycle", "currency": "eur", "subtotal_cents": 4900,
           "tax_cents": 931, "total_cents": 5831, "due_cents": 0, "paid_cents": 5831, "refunded_cents": 0, "starts": "2026-10-25T12:00:00Z", "ends": AT, "created_at": AT,
           "finalized_at": AT}  # fmt: skip
LINE = {"id": 17, "kind": "usage", "description": "Audio in", "meter": "audio_in_ms", "period": 3, "quantity": 3_660_000, "included": 3_600_000, "rate_micros": 4, "rate_units": 1,
        "amount_micros": 240_000, "amount_cents": 24, "starts": "2026-10-25T12:00:00Z", "ends": AT}  # fmt: skip
ADJUSTMENT = {"id": "adj_8c2e4f6a0b1d3c5e7f9a1b2c", "kind": "credit", "amount_cents": 500, "currency": "eur", "reason": "an hour of outage", "at": AT}
PRICE = {"currency": "eur", "interval": "month", "amount_cents": 4900}
SPEND_LINE = {"meter": "audio_in_ms", "units": 61000, "included": 0, "micros": 244000, "forecast_units": 122000, "forecast_micros": 488000}
STANDING = {"tenant": "adas-bakery", "meter": "audio_in_ms", "ledger": 61000, "rollups": 61000, "billed_ledger": 0, "invoiced": 0, "sent_ledger": 61000, "reported": 61000,
            "difference": 0}  # fmt: skip

# Name of a schema -> a value of it
SCHEMAS: dict[str, dict[str, Any]] = {
    "SignedUp": {"tenant_id": TENANT, "tenant_slug": "adas-bakery", "user_id": USER, "agent_id": AGENT, "api_key": "vv_Xa9fK2pQ…", "api_key_prefix": "vv_Xa9fK2pQ"},
    "Workspace": {"id": TENANT, **WORKSPACE, "email": "ada@example.com", "created_at": AT, "tool_hosts": ["api.example.com"], "allowed_origins": [],
                  "fallbacks": {"llm": {"engine": "openai", "model": "backup"}}, "resume_seconds": 120,
                  "milestones": {"signed_up": AT, "first_session": AT}},
    "Me": {"id": USER, "tenant": "adas-bakery", "permissions": ["agents.read", "sessions.read", "tenant.read"]},
    "Limits": {"limits": {"concurrent_sessions": 100, "requests_per_minute": 6000}, "concurrent_sessions": 3},
    "Mine": {**WORKSPACE, "suspended_reason": "", "erase_at": None, "role": "owner"},
    "Made": {**WORKSPACE, "status": "provisioning", "role": "owner", "api_key": "vv_Xa9fK2pQ…"},
    "Browser": {"id": 12, "user_agent": "Mozilla/5.0 …", "ip": "203.0.113.7", "created_at": AT, "last_seen_at": AT, "current": True},
    "IssuerOut": {"id": "idp_1f2e3d4c5b6a798807162534", "name": "Example staff", "issuer": "https://login.example.com/realms/staff", "client_id": "vivavoce", "claim": "groups",
                  "roles": {"/staff": "developer"}, "default_role": "viewer", "active": True, "checked_by": "look-up", "trust_minutes": 0, "created_at": AT,
                  "sign_in": "/oidc/idp_1f2e3d4c5b6a798807162534"},
    "Version": VERSION,
    "AgentOut": {"id": AGENT, "name": "Front desk", "is_default": True, "created_at": AT, "published": VERSION, "draft": {**VERSION, "number": 3, "published_at": None, "voice": "ash"}},
    "Template": {"id": "front-desk", "title": "Front desk", "about": "Greets callers and takes messages."},
    "Change": {"field": "instructions", "lines": ["- Answer briefly.", "+ Answer in one sentence."]},
    "KeyOut": KEY_ROW, "NewKey": {**KEY_ROW, "last_used_at": None, "last_used_ip": "", "secret": "vv_Xa9fK2pQ…"},
    "Member": {"id": MEMBER, "user_id": USER, "email": "ada@example.com", "role": "owner", "created_at": AT},
    "InvitationOut": {"id": "inv_b3a1c9d7e5f24680acbd1357", "email": "bob@example.com", "role": "developer", "state": "open", "sent_at": AT, "expires_at": "2026-12-02T12:00:00Z"},
    "SessionOut": VOICE_SESSION,
    "Turn": {"turn_id": "turn_1", "response_id": "resp_1", "status": "completed", "reason": "", "segments": [["endpointing", 520.0], ["stt", 40.0]], "overlapped": [], "first_ms": 560.0,
             "created_at": AT},
    "ItemOut": {"item_id": "item_1", "previous_item_id": "", "created_at": AT, "item": ITEM},
    "AuditOut": {"id": "aud_0f1e2d3c4b5a69788796a5b4", "seq": 42, "at": AT, "actor": USER, "key_id": "", "ip": "203.0.113.7", "request_id": "5d41402abc4b2a76b9719d911017c592",
                 "action": "api_key.issued", "target": KEY, "before": {}, "after": {"name": "production"}, "previous": "0" * 64, "digest": DIGEST},
    "Chain": {"lines": 42, "ok": True, "problem": ""},
    "Row": {"of": "2026-11-25", "units": UNITS},
    "Breakdown": {"first": "2026-10-27", "last": "2026-11-25", "zone": "Europe/Berlin", "by": "day", "data": [{"of": "2026-11-25", "units": UNITS}], "totals": UNITS,
                  "unbilled": {"tokens_out": 12}},
    "SpendLine": SPEND_LINE,
    "SpendOut": {"currency": "eur", "period": 3, "starts": AT, "ends": LATER, "spent_micros": 244000, "held_micros": 1200, "forecast_micros": 488000, "cap_micros": 50_000_000,
                 "plan_cap_micros": None, "alerts": [50, 80, 100], "lines": [SPEND_LINE]},
    "LedgerEntry": {"id": 977, "session_id": SESSION, "turn_id": "turn_1", "meter": "audio_in_ms", "quantity": 2100, "agent_id": AGENT, "key_id": KEY, "period": 3, "at": AT},
    "PriceOut": PRICE,
    "PlanOut": {"code": "pro", "kind": "plan", "name": "Pro", "about": "For teams with callers.", "version": 2, "trial_days": 14, "entitlements": {"concurrent_sessions": 50},
                "included": {"audio_in_ms": 3_600_000}, "rates": {"eur": {"audio_in_ms": [4, 1]}}, "prices": [PRICE]},
    "AddOnOut": {"addon": "sessions-10", "quantity": 1},
    "SubscriptionOut": {"plan": "pro", "plan_by_hand": None, "version": 2, "status": "active", "interval": "month", "currency": "eur", "amount_cents": 4900, "entitlements": {"concurrent_sessions": 50},
                        "period_start": AT, "period_end": LATER, "trial_end": None, "cancel_at_period_end": False, "next_plan": None, "grace_until": None,
                        "addons": [{"addon": "sessions-10", "quantity": 1}], "sandbox": True},
    "PreviewLine": PREVIEW_LINE,
    "PreviewOut": {"kind": "upgrade", "currency": "eur", "due_cents": 2916, "tax_cents": 466, "lines": [PREVIEW_LINE], "quote": "eyJwbGFuIjoicHJvIn0:1vN…"},
    "CardOut": {"id": "pm_1N2x", "brand": "visa", "last4": "4242", "expires": "12/2030", "default": True},
    "CardSetup": {"setup_intent": "seti_1N2x", "client_secret": "seti_1N2x_secret_…", "public_key": "pk_test_…", "page": ""},
    "SetupState": {"status": "succeeded"},
    "InvoiceOut": INVOICE, "LineOut": LINE, "AdjustmentOut": ADJUSTMENT, "InvoiceDetail": {**INVOICE, "lines": [LINE], "adjustments": [ADJUSTMENT]},
    "EntryOut": {"id": 977, "session_id": SESSION, "turn_id": "turn_1", "meter": "audio_in_ms", "quantity": 2100, "at": AT},
    "Standing": STANDING, "Reconciliation": {"difference": 0, "rows": [STANDING]},
    "RevenueOut": {"currency": "eur", "month": "2026-11", "invoiced_cents": 5831, "paid_cents": 5831, "refunded_cents": 0, "open_cents": 0},
    "TenantOut": {"id": TENANT, **WORKSPACE, "email": "ada@example.com", "suspended_reason": "", "erase_at": None, "created_at": AT, "plan": "", "limits": {"concurrent_sessions": 500},
                  "override_until": LATER},
    "Live": {"id": SESSION, "tenant_id": TENANT, "tenant_slug": "adas-bakery", "agent_id": AGENT, "agent_version": 2, "key_id": KEY, "client": "203.0.113.7", "opened_at": AT},
    "Queue": {"waiting": 0, "workers": 2, "busy": 1, "slots": 32},
    "ImpersonationOut": IMPERSONATED, "NewImpersonation": {**IMPERSONATED, "secret": "vi_Qr7bN4cV…"},
}  # fmt: skip
SCHEMAS["SessionDetail"] = {**VOICE_SESSION, "items": [ITEM], "turns": [SCHEMAS["Turn"]]}

# "METHOD path" of what has no schema of its own -> its answer
ANSWERS: dict[str, Any] = {
    "GET roles": {"billing": ["billing.read", "billing.write"], "viewer": ["agents.read", "sessions.read", "tenant.read"]},
    "GET usage": UNITS,
    "GET usage/csv": "day,agent,key,meter,units\r\n",
    "GET audit/csv": "seq,at,actor,key_id,ip,action,target,before,after,request_id,digest\r\n",
    "GET billing/invoices/{invoice_id}/csv": "description,meter,quantity,amount\r\n",
    "GET billing/invoices/{invoice_id}/pdf": "%PDF-1.3 …",
    "GET admin/tenants/{tenant_id}/domains": ["voice.example.com"],
    "POST admin/tenants/{tenant_id}/domains": ["voice.example.com"],
    "GET admin/queues": {"stt": SCHEMAS["Queue"]},
    "GET admin/workers": {"postgres": {"ok": True}, "redis": {"ok": True}},
}

# Status -> (code, type, message)
ERRORS: dict[int, tuple[str, str, str]] = {
    400: ("invalid_request", "invalid_request_error", "after='x': not a cursor of this list; begin without one"),
    401: ("missing_api_key", "authentication_error", "Send `Authorization: Bearer …` with an API key, or sign in."),
    402: ("card_declined", "invalid_request_error", "The card was declined."),
    403: ("forbidden", "invalid_request_error", "You need the permission keys.write for this; ask an owner of the workspace."),
    404: ("not_found", "invalid_request_error", "no key 'key_none'"),
    409: ("conflict", "invalid_request_error", "key key_2c8f51d0a9b74e36b1c05d7a is revoked already"),
    410: ("gone", "invalid_request_error", "This invitation is accepted. Ask for a new one."),
    422: ("invalid_value", "invalid_request_error", "The request does not do: name"),
    429: ("rate_limit_exceeded", "rate_limit_error", "Too many requests: 6000 a minute are allowed."),
    503: ("server_overloaded", "server_error", "Something the answer needs is away; try again."),
}


def error_example(status: int) -> dict[str, Any]:
    code, kind, message = ERRORS[status]
    return {"error": {"message": message, "type": kind, "code": code, "param": "name" if status == 422 else None, "fields": {"name": ["Field required"]} if status == 422 else None}}


def of_schema(schema: dict[str, Any]) -> Any:
    """The example of an answer's schema: a named one, a page or list of such. Raises KeyError where there is none."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        if name.startswith("Page_"):
            return {"object": "list", "data": [SCHEMAS[name.removeprefix("Page_").removesuffix("_")]], "has_more": False, "next": None}
        return SCHEMAS[name]
    return [of_schema(schema["items"])]


def fill(document: dict[str, Any]) -> None:
    """Put an example beside each answer of each operation. Raises KeyError for an operation whose answer has none."""
    for path, item in document["paths"].items():
        short = path.partition("/api/v1/")[2]
        for method, operation in item.items():
            for status, answer in operation["responses"].items():
                for content in answer.get("content", {}).values():
                    known = ANSWERS.get(f"{method.upper()} {short}")
                    good = int(status) < 400
                    content["example"] = (of_schema(content["schema"]) if known is None else known) if good else error_example(int(status))
