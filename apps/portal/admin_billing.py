"""Plans, subscriptions, invoices, revenue and reconciliation for operators."""

from __future__ import annotations

from django import forms
from django.contrib import admin, messages
from django.db import IntegrityError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path, reverse
from django.utils.html import format_html
from unfold.admin import ModelAdmin, TabularInline
from unfold.decorators import action

from apps.billing import catalog, invoicing, reconciliation
from apps.billing.models import Adjustment, Invoice, InvoiceLine, Plan, PlanVersion, Price, Subscription
from apps.common.errors import VivavoceError
from apps.teams.permissions import operator


class ReadOnly(ModelAdmin):
    def has_add_permission(self, request):
        return False

    def has_change_permission(self, request, obj=None):
        return False

    def has_delete_permission(self, request, obj=None):
        return False


@admin.register(Plan)
class PlanAdmin(ModelAdmin):
    list_display = ("name", "code", "kind", "position", "listed", "sold", "draft")
    filter_horizontal = ("offered_to",)

    @admin.display(description="sold now")
    def sold(self, plan: Plan) -> str:
        return str(plan.current or "not yet")

    @admin.display(description="terms")
    def draft(self, plan: Plan) -> str:
        return format_html('<a href="{}">draft of the next version</a>', reverse("admin:plan-draft", args=[plan.pk]))

    def has_delete_permission(self, request, obj=None):
        return obj is not None and not obj.versions.exclude(published_at=None).exists()

    def get_urls(self):
        return [path("<str:code>/draft", self.admin_site.admin_view(self.open_draft), name="plan-draft"), *super().get_urls()]

    def open_draft(self, request: HttpRequest, code: str) -> HttpResponse:
        plan = Plan.objects.filter(pk=code).first()
        if plan is None:
            return redirect("admin:billing_plan_changelist")
        return redirect("admin:billing_planversion_change", catalog.version_draft(plan=plan, actor=operator(request.user)).pk)


class PriceInline(TabularInline):
    model = Price
    extra = 0

    def _open(self, obj) -> bool:
        return obj is None or obj.published_at is None

    def has_add_permission(self, request, obj=None):
        return self._open(obj)

    def has_change_permission(self, request, obj=None):
        return self._open(obj)

    def has_delete_permission(self, request, obj=None):
        return self._open(obj)


@admin.register(PlanVersion)
class PlanVersionAdmin(ModelAdmin):
    """A draft is edited and published here; a published one is only read."""

    list_display = ("plan", "number", "published_at", "trial_days")
    list_filter = ("plan",)
    fields = ("plan", "number", "entitlements", "included", "rates", "trial_days", "published_at")
    readonly_fields = ("plan", "number", "published_at")
    inlines = [PriceInline]
    actions_detail = ["publish"]

    def has_add_permission(self, request):
        return False  # from the plan

    def has_change_permission(self, request, obj=None):
        return obj is None or obj.published_at is None

    def has_delete_permission(self, request, obj=None):
        return obj is not None and obj.published_at is None

    @action(description="Publish: sell it from now on", url_path="publish")
    def publish(self, request: HttpRequest, object_id: int) -> HttpResponse:
        try:
            version = catalog.version_publish(version=PlanVersion.objects.get(pk=object_id), actor=operator(request.user))
            messages.success(request, f"{version} is sold from now on; what runs keeps its terms.")
        except VivavoceError as error:
            messages.error(request, error.message)
        return redirect("admin:billing_planversion_change", object_id)


@admin.register(Subscription)
class SubscriptionAdmin(ReadOnly):
    list_display = ("tenant", "version", "price", "status", "period_end", "cancel_at_period_end", "grace_until")
    list_filter = ("status", "version__plan")
    search_fields = ("tenant__slug", "customer_id")
    actions_list = ["revenue", "reconciliation"]

    @action(description="Revenue", url_path="revenue")
    def revenue(self, request: HttpRequest) -> HttpResponse:
        context = {**self.admin_site.each_context(request), "title": "Revenue", "months": reconciliation.revenue(), "plans": reconciliation.recurring(), "states": reconciliation.trials()}
        return render(request, "admin/revenue.html", context)

    @action(description="Reconciliation", url_path="reconciliation")
    def reconciliation(self, request: HttpRequest) -> HttpResponse:
        rows = reconciliation.standings()
        context = {**self.admin_site.each_context(request), "title": "Reconciliation", "rows": rows, "difference": sum(row.difference for row in rows)}
        return render(request, "admin/reconciliation.html", context)


class LineInline(TabularInline):
    model = InvoiceLine
    extra = 0
    fields = readonly_fields = ("kind", "description", "quantity", "included", "amount_micros", "amount_cents", "period")

    def has_add_permission(self, request, obj=None):
        return False

    has_change_permission = has_delete_permission = has_add_permission


class Credit(forms.Form):
    amount = forms.DecimalField(min_value=0, max_digits=10, decimal_places=2, help_text="In the invoice's currency.")
    reason = forms.CharField(max_length=300, help_text="The customer reads it.")
    refund = forms.BooleanField(required=False, help_text="To the card; otherwise to the balance, or off what is due.")


@admin.register(Invoice)
class InvoiceAdmin(ReadOnly):
    list_display = ("number", "tenant", "status", "currency", "total_cents", "paid_cents", "refunded_cents", "created_at", "credit_link")
    list_filter = ("status", "currency")
    search_fields = ("number", "id", "tenant__slug")
    inlines = [LineInline]

    @admin.display(description="act")
    def credit_link(self, invoice: Invoice) -> str:
        return format_html('<a href="{}">credit or refund</a>', reverse("admin:invoice-credit", args=[invoice.pk])) if invoice.provider_id else ""

    def get_urls(self):
        return [path("<str:invoice_id>/credit", self.admin_site.admin_view(self.credit), name="invoice-credit"), *super().get_urls()]

    def credit(self, request: HttpRequest, invoice_id: str) -> HttpResponse:
        invoice = Invoice.objects.select_related("tenant__subscription__tenant").filter(pk=invoice_id).first()
        if invoice is None or not invoice.provider_id:
            return redirect("admin:billing_invoice_changelist")
        form = Credit(request.POST or None)
        if request.method == "POST" and form.is_valid():
            values = form.cleaned_data
            try:
                invoicing.invoice_credit(invoice=invoice, row=invoice.tenant.subscription, cents=int(values["amount"] * 100), reason=values["reason"],
                                         refund=values["refund"], actor=operator(request.user))  # fmt: skip
                messages.success(request, "Done.")
            except (VivavoceError, IntegrityError) as error:
                messages.error(request, str(error))
            return redirect("admin:billing_invoice_changelist")
        return render(request, "admin/credit.html", {**self.admin_site.each_context(request), "title": f"Credit {invoice}", "form": form, "invoice": invoice})


@admin.register(Adjustment)
class AdjustmentAdmin(ReadOnly):
    list_display = ("kind", "tenant", "invoice", "amount_cents", "currency", "reason", "at")
    list_filter = ("kind",)
