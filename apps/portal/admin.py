"""Django admin for what lives in the public schema. Changes of state go through the services, with their audit lines."""

from __future__ import annotations

from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.usersessions.models import UserSession
from django import forms
from django.contrib import admin, messages
from django.contrib.auth.models import Group
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import mark_safe
from unfold.admin import ModelAdmin
from unfold.decorators import display
from unfold.widgets import UnfoldAdminIntegerFieldWidget, UnfoldAdminTextInputWidget

from apps.accounts.models import Issuer, Secret, User
from apps.apikeys.impersonation import impersonation_end
from apps.apikeys.models import LIMIT_NAMES, ApiKey, Impersonation
from apps.audit.models import AuditEntry
from apps.audit.services import audit_record
from apps.billing.by_hand import override_set
from apps.common.errors import VivavoceError
from apps.onboarding.services import workspace_create
from apps.portal import admin_billing  # noqa: F401 registers its own
from apps.teams.models import Membership
from apps.teams.oidc import TRUST_MINUTES, endpoints_read
from apps.teams.permissions import operator
from apps.tenants import services
from apps.tenants.hosts import domain_add, domain_remove
from apps.tenants.models import TEMPLATE_SCHEMA, Domain, Tenant
from apps.usage.limits import limiter

ACTS = {
    "suspend": lambda t, actor, reason: services.tenant_suspend(tenant=t, actor=actor, reason=reason),
    "resume": lambda t, actor, reason: services.tenant_resume(tenant=t, actor=actor),
    "close": lambda t, actor, reason: services.tenant_close(tenant=t, actor=actor),
    "reopen": lambda t, actor, reason: services.tenant_reopen(tenant=t, actor=actor),
    "erase": lambda t, actor, reason: services.tenant_erase(tenant=t, actor=actor),
}
CONSEQUENCES = {
    "suspend": "New connections are refused at once, live ones are told and closed within seconds; data are kept.",
    "resume": "It may be used again at once.",
    "close": "Calls are refused at once; after 30 days everything is erased, until then it can be reopened.",
    "reopen": "It may be used again at once.",
    "erase": "Its schema is dropped and its keys are destroyed, now and for good; the audit log keeps that it existed.",
}
OFFERED = {"active": ("suspend", "close"), "suspended": ("resume", "close"), "closed": ("reopen", "erase")}
for _model in (Group, EmailAddress, Authenticator, UserSession):  # changed by their owners' pages only
    admin.site.unregister(_model)


class Reason(forms.Form):
    reason = forms.CharField(max_length=300, required=False)


def limit_field() -> forms.IntegerField:
    return forms.IntegerField(required=False, min_value=0, max_value=2**31 - 1, widget=UnfoldAdminIntegerFieldWidget)


class TenantForm(forms.ModelForm):
    """Limits as numbers; empty = what the plan or the installation gives."""

    slug = forms.CharField(required=False, max_length=40, widget=UnfoldAdminTextInputWidget,
                           help_text="3-40 of a-z 0-9 -, a letter first; empty: made from the name.")  # fmt: skip
    requests_per_minute = limit_field()
    tokens_per_minute = limit_field()
    concurrent_sessions = limit_field()
    audio_minutes_per_day = limit_field()
    events_per_second = limit_field()
    frame_kib = limit_field()

    class Meta:
        model = Tenant
        fields = ("name", "slug", "email", "plan", "override_until")
        help_texts = {
            "email": "Of whom to write to.",
            "plan": "By hand, in place of the plan it pays for.", "override_until": "When plan and limits by hand end (UTC); empty: no end.",
        }  # fmt: skip

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for name in set(LIMIT_NAMES) & set(self.fields):
            self.fields[name].initial = self.instance.limits.get(name)

    def clean(self):
        values = super().clean()
        self.instance.limits = {n: values[n] for n in LIMIT_NAMES if values.get(n) is not None}
        return values


class ServiceAdmin(ModelAdmin):
    """What a service refuses is said on the page."""

    def changeform_view(self, request, object_id=None, form_url="", extra_context=None):
        try:
            return super().changeform_view(request, object_id, form_url, extra_context)
        except VivavoceError as error:
            messages.error(request, error.message)
            return redirect(request.path)


@admin.register(Tenant)
class TenantAdmin(ServiceAdmin):
    form = TenantForm
    list_display = ("slug", "name", "state", "live", "email", "created_at", "acts")
    list_filter = ("status",)
    search_fields = ("slug", "name", "id")
    fieldsets = (
        (None, {"fields": ("name", "slug", "email")}),
        ("By hand, until", {"fields": ("plan", *LIMIT_NAMES, "override_until")}),
        ("State", {"fields": ("status", "suspended_reason", "erase_at", "milestones", "acts")}),
    )
    readonly_fields = ("status", "suspended_reason", "erase_at", "milestones", "acts")

    def get_queryset(self, request):
        return super().get_queryset(request).exclude(schema_name=TEMPLATE_SCHEMA)

    def get_readonly_fields(self, request, obj=None):
        return (*self.readonly_fields, "slug") if obj else self.readonly_fields

    def get_fieldsets(self, request, obj=None):
        return self.fieldsets if obj else self.fieldsets[:1]

    @display(description="state", label={"active": "success", "suspended": "danger", "closed": "warning", "provisioning": "info"})
    def state(self, tenant: Tenant) -> str:
        return tenant.status

    @admin.display(description="live sessions")
    def live(self, tenant: Tenant) -> int:
        return limiter().live(tenant.id)

    @admin.display(description="act")
    def acts(self, tenant: Tenant) -> str:
        links = [format_html('<a class="underline" href="{}">{}</a>', reverse("admin:tenant-act", args=[tenant.id, act]), act)
                 for act in OFFERED.get(tenant.status, ())]  # fmt: skip
        return format_html(" · ".join(["{}"] * len(links)), *links) if links else "-"

    def save_model(self, request, obj, form, change):
        if not change:
            made = workspace_create(name=obj.name, slug=obj.slug or None, email=obj.email)
            obj.pk, obj.schema_name = made.pk, made.schema_name
            obj.refresh_from_db()
            return
        actor, changed = operator(request.user), set(form.changed_data)
        by_hand = {"limits": obj.limits, "plan": obj.plan, "until": obj.override_until}  # before the service reads the row anew
        if changed & {"name", "email"}:
            services.tenant_update(tenant=obj, actor=actor, name=obj.name, email=obj.email)
        if changed & {"plan", "override_until", *LIMIT_NAMES}:
            override_set(tenant=obj, actor=actor, **by_hand)

    def has_delete_permission(self, request, obj=None):
        return False  # closed and erased, by the acts

    def get_urls(self):
        return [path("<str:tenant_id>/act/<str:act>", self.admin_site.admin_view(self.act), name="tenant-act"), *super().get_urls()]

    def act(self, request: HttpRequest, tenant_id: str, act: str) -> HttpResponse:
        """A page that asks once more; POST does it."""
        tenant, actor = self.get_queryset(request).filter(pk=tenant_id).first(), operator(request.user)
        if tenant is None or act not in ACTS or not actor.can("platform"):
            return redirect("admin:tenants_tenant_changelist")
        form = Reason(request.POST if request.method == "POST" else None)
        if act != "suspend":
            del form.fields["reason"]
        if request.method == "POST" and form.is_valid():
            try:
                ACTS[act](tenant, actor, form.cleaned_data.get("reason", ""))
                messages.success(request, f"{tenant.slug}: {act} done.")
            except VivavoceError as error:
                messages.error(request, error.message)
            return redirect("admin:tenants_tenant_changelist")
        return render(request, "admin/tenant_act.html", {
            **self.admin_site.each_context(request), "title": f"{act.title()} {tenant.slug}", "form": form, "tenant": tenant, "act": act,
            "consequence": CONSEQUENCES[act],
        })  # fmt: skip


@admin.register(User)
class UserAdmin(ModelAdmin):
    list_display = ("email", "name", "is_active", "is_staff", "created_at")
    search_fields = ("email", "name")
    fields = ("email", "name", "is_active", "is_staff", "is_superuser", "last_login", "look")
    readonly_fields = ("last_login", "look")

    @admin.display(description="see the portal as this user")
    def look(self, user: User) -> str:
        if user.is_staff or not user.is_active:
            return "Not for operators, nor for accounts that are off."
        why = mark_safe('<input name="reason" maxlength="300" aria-label="Reason" placeholder="Reason, for the audit log" class="border rounded px-2 py-1 me-2">')
        button = '<button type="submit" class="underline cursor-pointer" formaction="{}" formnovalidate{}>{}</button>'
        address = reverse("impersonate", args=[user.pk])
        rows = [("", f"Look as {user.email}, read only"), (mark_safe(' name="write" value="1"'), "with changes")]
        return why + format_html_join(" · ", button, [(address, more, words) for more, words in rows])

    def has_add_permission(self, request):
        return False


@admin.register(Membership)
class MembershipAdmin(ModelAdmin):
    list_display = ("user", "tenant", "role")
    list_filter = ("role",)

    def has_change_permission(self, request, obj=None):
        return False  # in the team page, with its rules

    has_delete_permission = has_change_permission

    def has_add_permission(self, request):
        return False


@admin.register(ApiKey)
class ApiKeyAdmin(ModelAdmin):
    list_display = ("name", "prefix", "tenant", "created_at", "last_used_at", "revoked_at")
    fields = ("name", "tenant", "prefix", "scopes", "limits", "created_by", "created_at", "expires_at", "revoked_at", "last_used_at", "last_used_ip")
    readonly_fields = fields

    def has_add_permission(self, request):
        return False  # the secret is shown once, in the portal

    has_delete_permission = MembershipAdmin.has_change_permission


@admin.register(Impersonation)
class ImpersonationAdmin(ModelAdmin):
    """Who looked as whom, and what lasts still."""

    list_display = ("user", "tenant", "by", "writable", "reason", "created_at", "expires_at", "state")
    fields = ("user", "tenant", "by", "writable", "reason", "created_at", "expires_at", "ended_at")
    readonly_fields = fields
    actions = ("end",)
    has_add_permission = ApiKeyAdmin.has_add_permission
    has_delete_permission = MembershipAdmin.has_change_permission

    @admin.action(description="End them now")
    def end(self, request, rows):
        for row in rows:
            if row.state == "active":
                impersonation_end(impersonation=row, actor=operator(request.user))


class IssuerForm(forms.ModelForm):
    new_secret = forms.CharField(required=False, widget=forms.PasswordInput, help_text="Empty: stays as it is.")
    trust_minutes = forms.IntegerField(required=False, min_value=0, max_value=TRUST_MINUTES, widget=UnfoldAdminIntegerFieldWidget,
                                       help_text="Of people the provider cannot be asked about: how long their keys go on without word of them; empty: a minute.")  # fmt: skip

    class Meta:
        model = Issuer
        fields = ("name", "issuer", "client_id", "new_secret", "claim", "roles", "default_role", "trust_minutes", "active")

    def clean_trust_minutes(self) -> int:
        return self.cleaned_data["trust_minutes"] or 0

    def clean(self):
        """The endpoints are read from the provider itself, so that a typing error shows now and not at the first sign-in."""
        values = super().clean()
        if values.get("issuer"):
            try:
                self.ends = endpoints_read(issuer=values["issuer"].strip(), client_id=values.get("client_id", "").strip(), tenant_id=self.instance.tenant_id,
                                           client_secret=values["new_secret"] or Secret.open(self.instance.client_secret))  # fmt: skip
            except VivavoceError as error:
                self.add_error("issuer", error.message)
        return values


@admin.register(Issuer)
class IssuerAdmin(ModelAdmin):
    form = IssuerForm
    list_display = ("name", "tenant", "issuer", "checked_by", "active")

    def save_model(self, request, obj, form, change):
        if form.cleaned_data["new_secret"]:
            obj.client_secret = Secret.seal(form.cleaned_data["new_secret"])
        obj.issuer, obj.endpoints = form.ends["issuer"], form.ends
        super().save_model(request, obj, form, change)
        audit_record(actor=operator(request.user), action="issuer.saved", target=obj.pk, after={"issuer": obj.issuer, "client_id": obj.client_id, "active": obj.active})


@admin.register(AuditEntry)
class AuditAdmin(ModelAdmin):
    """What operators did, and what happened to accounts; a workspace's own lines are on its own page."""

    list_display = ("seq", "at", "action", "actor", "target", "ip")
    list_filter = ("action",)
    search_fields = ("action", "actor", "target", "ip", "request_id")
    fields = ("seq", "at", "action", "actor", "key_id", "ip", "target", "before", "after", "request_id", "previous", "digest")
    readonly_fields = fields

    def has_add_permission(self, request):
        return False  # the log writes itself

    has_delete_permission = MembershipAdmin.has_change_permission


class DomainForm(forms.ModelForm):
    class Meta:
        model = Domain
        fields = ("tenant", "domain")
        help_texts = {"domain": "Such as voice.example.com. Its DNS must lead to the portal, with a certificate for it at your proxy."}


@admin.register(Domain)
class DomainAdmin(ServiceAdmin):
    """Host names that lead to one workspace's pages."""

    form = DomainForm
    list_display = ("domain", "tenant")
    search_fields = ("domain",)
    actions = ("remove",)
    has_change_permission = MembershipAdmin.has_change_permission
    has_delete_permission = MembershipAdmin.has_change_permission  # the act below writes its line

    def has_view_permission(self, request, obj=None):
        return operator(request.user).can("platform")

    def formfield_for_foreignkey(self, db_field, request, **kwargs):
        return super().formfield_for_foreignkey(db_field, request, **{**kwargs, "queryset": Tenant.objects.real()})

    def save_model(self, request, obj, form, change):
        made = domain_add(tenant=obj.tenant, host=obj.domain, actor=operator(request.user))
        obj.pk, obj.domain = made.pk, made.domain

    @admin.action(description="Remove", permissions=["view"])
    def remove(self, request, rows):
        for row in rows:
            domain_remove(domain=row, actor=operator(request.user))
