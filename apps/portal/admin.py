"""Django admin for what lives in the public schema. Changes of state go through the services, with their audit lines."""

from __future__ import annotations

from django import forms
from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path, reverse
from django.utils.html import format_html
from unfold.admin import ModelAdmin

from apps.accounts.models import Issuer, Secret, User
from apps.apikeys.models import ApiKey
from apps.common.errors import VivavoceError
from apps.onboarding.services import workspace_create
from apps.teams.models import Membership
from apps.teams.permissions import operator
from apps.tenants import services
from apps.tenants.models import TEMPLATE_SCHEMA, Domain, Tenant
from apps.usage.limits import limiter

ACTS = {
    "suspend": lambda t, actor, reason: services.tenant_suspend(tenant=t, actor=actor, reason=reason),
    "resume": lambda t, actor, reason: services.tenant_resume(tenant=t, actor=actor),
    "close": lambda t, actor, reason: services.tenant_close(tenant=t, actor=actor),
    "reopen": lambda t, actor, reason: services.tenant_reopen(tenant=t, actor=actor),
    "erase": lambda t, actor, reason: services.tenant_erase(tenant=t, actor=actor),
}
OFFERED = {"active": ("suspend", "close"), "suspended": ("resume", "close"), "closed": ("reopen", "erase")}


class Reason(forms.Form):
    reason = forms.CharField(max_length=300, required=False, help_text="Needed for a suspension: its owner reads it.")


@admin.register(Tenant)
class TenantAdmin(ModelAdmin):
    list_display = ("slug", "name", "status", "live", "email", "created_at", "acts")
    list_filter = ("status",)
    search_fields = ("slug", "name", "id")
    fields = ("name", "slug", "email", "status", "suspended_reason", "erase_at", "limits", "plan", "override_until", "milestones")
    readonly_fields = ("status", "suspended_reason", "erase_at", "milestones")

    def get_queryset(self, request):
        return super().get_queryset(request).exclude(schema_name=TEMPLATE_SCHEMA)

    def get_readonly_fields(self, request, obj=None):
        return (*self.readonly_fields, "slug", "name", "email") if obj else (*self.readonly_fields, "limits", "plan", "override_until")

    @admin.display(description="live sessions")
    def live(self, tenant: Tenant) -> int:
        return limiter().live(tenant.id)

    @admin.display(description="act")
    def acts(self, tenant: Tenant) -> str:
        links = [format_html('<a href="{}">{}</a>', reverse("admin:tenant-act", args=[tenant.id, act]), act) for act in OFFERED.get(tenant.status, ())]
        return format_html(" · ".join(["{}"] * len(links)), *links) if links else ""

    def save_model(self, request, obj, form, change):
        if change:
            services.tenant_override(tenant=obj, actor=operator(request.user), limits=obj.limits, plan=obj.plan, until=obj.override_until)
        else:
            made = workspace_create(name=obj.name, slug=obj.slug or None, email=obj.email)
            obj.pk, obj.schema_name = made.pk, made.schema_name
            obj.refresh_from_db()

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
        if request.method == "POST" and form.is_valid():
            try:
                ACTS[act](tenant, actor, form.cleaned_data["reason"])
                messages.success(request, f"{tenant.slug}: {act} done.")
            except VivavoceError as error:
                messages.error(request, error.message)
            return redirect("admin:tenants_tenant_changelist")
        context = {**self.admin_site.each_context(request), "title": f"{act.title()} {tenant.slug}", "form": form, "tenant": tenant, "act": act}
        return render(request, "admin/tenant_act.html", context)


@admin.register(User)
class UserAdmin(ModelAdmin):
    list_display = ("email", "name", "is_active", "is_staff", "created_at")
    search_fields = ("email", "name")
    fields = ("email", "name", "is_active", "is_staff", "is_superuser", "last_login", "look")
    readonly_fields = ("last_login", "look")

    @admin.display(description="see the portal as this user")
    def look(self, user: User) -> str:
        return format_html('<button type="submit" formaction="{}" formnovalidate>Look as {} (read only)</button>', reverse("impersonate", args=[user.pk]), user.email)

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


class IssuerForm(forms.ModelForm):
    new_secret = forms.CharField(required=False, widget=forms.PasswordInput, help_text="Empty: stays as it is.")

    class Meta:
        model = Issuer
        fields = ("name", "issuer", "client_id", "new_secret", "claim", "roles", "default_role", "active", "endpoints")


@admin.register(Issuer)
class IssuerAdmin(ModelAdmin):
    form = IssuerForm
    list_display = ("name", "tenant", "issuer", "active")

    def save_model(self, request, obj, form, change):
        if form.cleaned_data["new_secret"]:
            obj.client_secret = Secret.seal(form.cleaned_data["new_secret"])
        super().save_model(request, obj, form, change)


admin.site.register(Domain, ModelAdmin)
