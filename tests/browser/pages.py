"""Every page of the portal, read off the URLconf, with who sees it and what stands in its address. A route that is no page has its reason."""

from __future__ import annotations

from django.urls import URLResolver, get_resolver, reverse

NO_PAGE = {
    "sign-out-everywhere": "POST", "impersonate": "POST", "impersonate-end": "POST", "oidc-callback": "back from a provider", "oidc-start": "on to a provider",
    "playground-secret": "JSON", "agent-act": "POST", "session-end": "POST", "key-revoke": "POST", "key-rotate": "POST", "member-role": "POST",
    "member-remove": "POST", "member-transfer": "POST", "invitation-act": "POST", "workspace-close": "POST", "workspace-reopen": "POST",
    "audit-export": "CSV", "usage-export": "CSV", "invoice-file": "PDF or CSV", "stripe-webhook": "JSON", "card-new": "POST", "card-act": "POST",
    "card-return": "back from the provider's form", "invoice-pay": "POST", "live-session-end": "POST",
    **{f"billing-{what}": "POST" for what in ("plan", "cancel", "keep", "trial", "addon", "tax")}, "mfa_download_recovery_codes": "a text file",
    "account_confirm_login_code": "sign-in by mailed code is off",
}  # fmt: skip
STRANGER = {
    "home", "docs", "terms", "invitation", "account_login", "account_signup", "account_inactive", "account_email_verification_sent", "account_reset_password",
    "account_reset_password_done", "account_reset_password_from_key", "account_reset_password_from_key_done", "account_confirm_email", "openapi-view",
}  # fmt: skip
OPERATOR = {"live-sessions", "queues"}
WITH_MFA = {"mfa_authenticate", "mfa_reauthenticate", "mfa_deactivate_totp", "mfa_view_recovery_codes", "mfa_generate_recovery_codes"}
WITHOUT_PASSWORD = {"account_set_password"}
ADMIN_MODELS = ("tenants_tenant", "accounts_user", "accounts_issuer", "teams_membership", "apikeys_apikey", "apikeys_impersonation", "tenants_domain", "audit_auditentry",
                "billing_plan", "billing_subscription", "billing_invoice", "billing_adjustment")  # fmt: skip


def routes(patterns=None, before: str = "") -> dict[str, list[str]]:
    """Name of each named route -> the names in its address. Django's admin and the operations of /api/v1 are not walked."""
    found = {}
    for pattern in get_resolver("config.urls.portal").url_patterns if patterns is None else patterns:
        route = before + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            if not route.startswith(("admin/", "api/v1/")):
                found |= routes(pattern.url_patterns, route)
        elif pattern.name:
            found[pattern.name] = list(pattern.pattern.regex.groupindex) + (["slug"] if route.startswith("t/") else [])
    return found


def persona(name: str) -> str:
    for who, names in (("stranger", STRANGER), ("operator", OPERATOR), ("with_mfa", WITH_MFA), ("without_password", WITHOUT_PASSWORD)):
        if name in names:
            return who
    return "owner"


def pages(values: dict[str, dict[str, object]]) -> dict[str, list[tuple[str, str]]]:
    """Persona -> [(name, path)]. `values`: what stands in the addresses, for all ("") and for single routes. Raises KeyError for what has none."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name, arguments in routes().items():
        if name not in NO_PAGE:
            given = {a: values.get(name, {}).get(a) or values[""][a] for a in arguments}
            found.setdefault(persona(name), []).append((name, reverse(name, urlconf="config.urls.portal", kwargs=given)))
    found["stranger"].append(("openapi-view", reverse("api-v1:openapi-view", urlconf="config.urls.portal")))
    found["owner"].append(("home of members", "/"))
    found["operator"] += [(f"{m} list", reverse(f"admin:{m}_changelist", urlconf="config.urls.portal")) for m in ADMIN_MODELS]
    found["operator"] += [(f"{m} add", reverse(f"admin:{m}_add", urlconf="config.urls.portal")) for m in ("tenants_tenant", "accounts_issuer")]
    return found
