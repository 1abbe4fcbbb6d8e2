from allauth.account.views import password_reset_from_key
from django.contrib import admin
from django.urls import include, path, re_path, register_converter

from apps.api import health
from apps.api.v1 import api
from apps.portal import operations
from apps.portal.views import account, agents, billing, keys, oidc, playground, records, stripe_webhook, team, usage, workspaces


class Word:
    """A fixed set of last path parts, so that a typing error is 404 and not a surprise."""

    def __init_subclass__(cls, words: str):
        cls.regex = words

    def to_python(self, value):
        return value

    to_url = to_python


class AgentAct(Word, words="publish|discard|default|delete|rollback"): ...


class CardAct(Word, words="default|remove"): ...


class InvoiceFile(Word, words="pdf|csv"): ...


class InvitationAct(Word, words="resend|revoke"): ...


register_converter(AgentAct, "agentact")
register_converter(CardAct, "cardact")
register_converter(InvoiceFile, "invoicefile")
register_converter(InvitationAct, "invitationact")

workspace = [
    path("", workspaces.overview, name="overview"),
    path("quickstart", workspaces.quickstart, name="quickstart"),
    path("playground", playground.playground, name="playground"),
    path("playground/secret", playground.playground_secret, name="playground-secret"),
    path("agents", agents.agent_list, name="agents"),
    path("agents/<str:agent_id>", agents.agent_detail, name="agent"),
    path("agents/<str:agent_id>/compare/<int:one>/<int:other>", agents.agent_compare, name="agent-compare"),
    path("agents/<str:agent_id>/<agentact:what>", agents.agent_act, name="agent-act"),
    path("sessions", records.session_list, name="sessions"),
    path("sessions/<str:session_id>", records.session_detail, name="session"),
    path("sessions/<str:session_id>/end", records.session_end, name="session-end"),
    path("keys", keys.key_list, name="keys"),
    path("keys/<str:key_id>/revoke", keys.key_revoke, name="key-revoke"),
    path("keys/<str:key_id>/rotate", keys.key_rotate, name="key-rotate"),
    path("billing", billing.billing, name="billing"),
    path("billing/cards", billing.card_new, name="card-new"),
    path("billing/cards/return", billing.card_return, name="card-return"),
    path("billing/cards/<str:card_id>/<cardact:what>", billing.card_act, name="card-act"),
    path("billing/invoices/<str:invoice_id>.<invoicefile:kind>", billing.invoice_file, name="invoice-file"),
    path("billing/invoices/<str:invoice_id>", billing.invoice, name="invoice"),
    path("billing/invoices/<str:invoice_id>/pay", billing.invoice_pay, name="invoice-pay"),
    path("billing/invoices/<str:invoice_id>/lines/<int:line_id>", billing.invoice_line, name="invoice-line"),
    *(path(f"billing/{what}", billing.billing_act, {"what": what}, name=f"billing-{what}") for what in ("plan", "cancel", "keep", "trial", "addon", "tax")),
    path("team", team.team, name="team"),
    path("team/<str:member_id>/role", team.member_role, name="member-role"),
    path("team/<str:member_id>/remove", team.member_remove, name="member-remove"),
    path("team/<str:member_id>/transfer", team.transfer, name="member-transfer"),
    path("invitations/<str:invitation_id>/<invitationact:what>", team.invitation_act, name="invitation-act"),
    path("settings", workspaces.workspace_settings, name="settings"),
    path("settings/issuer", oidc.issuer, name="issuer"),
    path("settings/close", workspaces.workspace_close, name="workspace-close"),
    path("settings/reopen", workspaces.workspace_reopen, name="workspace-reopen"),
    path("usage", usage.usage, name="usage"),
    path("usage.csv", usage.usage_export, name="usage-export"),
    path("audit", records.audit, name="audit"),
    path("audit.csv", records.audit_export, name="audit-export"),
]
urlpatterns = [
    path("health", health.health),
    path("ready", health.ready_portal),
    path("health/ready", health.ready_portal),
    path("metrics", health.metrics),
    path("", workspaces.home, name="home"),
    path("new", workspaces.new_workspace, name="new-workspace"),
    path("progress/<slug:slug>", workspaces.progress, name="progress"),
    path("invitations/<str:token>", team.invitation, name="invitation"),
    path("account", account.account, name="account"),
    path("account/sign-out-everywhere", account.sign_out_everywhere, name="sign-out-everywhere"),
    path("docs", account.docs, name="docs"),
    path("terms", account.terms, name="terms"),
    path("impersonate/<str:user_id>", account.impersonate, name="impersonate"),
    path("impersonation/end", account.impersonate_end, name="impersonate-end"),
    path("oidc/callback/", oidc.callback, name="oidc-callback"),
    path("oidc/<str:issuer_id>", oidc.start, name="oidc-start"),
    # before allauth's own, whose pattern has no underscore, which our users' ids have
    re_path(r"^accounts/password/reset/key/(?P<uidb36>[0-9A-Za-z_]+)-(?P<key>.+)/$", password_reset_from_key, name="account_reset_password_from_key"),
    path("accounts/", include("allauth.account.urls")),
    path("accounts/2fa/", include("allauth.mfa.urls")),
    path("accounts/sessions/", include("allauth.usersessions.urls")),
    path("t/<slug:slug>/", include(workspace)),
    path("stripe/webhook", stripe_webhook.webhook, name="stripe-webhook"),
    path("api/v1/", api.urls),
    path("admin/live", operations.live, name="live-sessions"),
    path("admin/live/<str:tenant_id>/<str:session_id>/end", operations.live_end, name="live-session-end"),
    path("admin/queues", operations.queues_page, name="queues"),
    path("admin/", admin.site.urls),
]
handler400 = "apps.api.handlers.bad_request"
handler403 = "apps.api.handlers.forbidden"
handler404 = "apps.api.handlers.not_found"
handler500 = "apps.api.handlers.server_error"
