"""Django admin for what lives in the public schema."""

from __future__ import annotations

from django.contrib import admin
from unfold.admin import ModelAdmin

from apps.accounts.models import User
from apps.apikeys.models import ApiKey
from apps.teams.models import Membership
from apps.tenants.models import Domain, Tenant


@admin.register(Tenant)
class TenantAdmin(ModelAdmin):
    list_display = ("slug", "name", "status", "email", "created_at")
    list_filter = ("status",)
    search_fields = ("slug", "name", "id")
    readonly_fields = ("schema_name", "slug")

    def get_queryset(self, request):
        return super().get_queryset(request).real()

    def has_add_permission(self, request):
        return False  # made by `manage.py tenant create`: a tenant needs its schema

    def has_delete_permission(self, request, obj=None):
        return False


@admin.register(User)
class UserAdmin(ModelAdmin):
    list_display = ("email", "name", "is_active", "is_staff", "created_at")
    search_fields = ("email", "name")
    readonly_fields = ("password", "last_login")


@admin.register(Membership)
class MembershipAdmin(ModelAdmin):
    list_display = ("user", "tenant", "role")
    list_filter = ("role",)


@admin.register(ApiKey)
class ApiKeyAdmin(ModelAdmin):
    list_display = ("name", "prefix", "tenant", "created_at", "last_used_at", "revoked_at")
    readonly_fields = ("tenant", "prefix", "digest", "created_by", "last_used_at")

    def has_add_permission(self, request):
        return False  # the secret is shown once, in the portal


admin.site.register(Domain, ModelAdmin)
