"""How Django admin looks (django-unfold): its name, colours and the areas beside its pages."""

from __future__ import annotations

from django.templatetags.static import static
from django.urls import reverse_lazy


def _item(title: str, icon: str, route: str) -> dict:
    return {"title": title, "icon": icon, "link": reverse_lazy(route)}


UNFOLD = {
    "SITE_TITLE": "Vivavoce operations",
    "SITE_HEADER": "Vivavoce",
    "SITE_SUBHEADER": "Operations",
    "SITE_URL": "/",
    "SITE_ICON": lambda request: static("portal/icon.svg"),
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("portal/icon.svg")}],
    "SHOW_HISTORY": False,
    "STYLES": [lambda request: static("portal/css/admin.css")],
    "SCRIPTS": [lambda request: static("portal/admin.js")],
    "DASHBOARD_CALLBACK": "apps.portal.operations.dashboard",
    "COLORS": {
        "primary": {
            "50": "#f3f1ff", "100": "#edebff", "200": "#d9d4ff", "300": "#c2b9ff", "400": "#a99dff", "500": "#6f5ff0", "600": "#4f3ee0",
            "700": "#3d2fc0", "800": "#32279a", "900": "#262244", "950": "#17142e",
        },
    },
    "SIDEBAR": {
        "show_search": False,
        "show_all_applications": False,
        "navigation": [
            {"title": "Now", "items": [
                _item("Dashboard", "dashboard", "admin:index"),
                _item("Live sessions", "graphic_eq", "live-sessions"),
                _item("Queues and workers", "dns", "queues"),
            ]},
            {"title": "Customers", "separator": True, "items": [
                _item("Workspaces", "domain", "admin:tenants_tenant_changelist"),
                _item("People", "person", "admin:accounts_user_changelist"),
                _item("Memberships", "group", "admin:teams_membership_changelist"),
                _item("API keys", "key", "admin:apikeys_apikey_changelist"),
                _item("Looking as members", "visibility", "admin:apikeys_impersonation_changelist"),
            ]},
            {"title": "Billing", "separator": True, "items": [
                _item("Plans", "sell", "admin:billing_plan_changelist"),
                _item("Subscriptions", "autorenew", "admin:billing_subscription_changelist"),
                _item("Invoices", "receipt_long", "admin:billing_invoice_changelist"),
                _item("Refunds and credits", "undo", "admin:billing_adjustment_changelist"),
            ]},
            {"title": "Platform", "separator": True, "items": [
                _item("OpenID providers", "login", "admin:accounts_issuer_changelist"),
                _item("Host names", "language", "admin:tenants_domain_changelist"),
                _item("Audit log", "history", "admin:audit_auditentry_changelist"),
            ]},
        ],
    },
}  # fmt: skip
