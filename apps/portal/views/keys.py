from __future__ import annotations

from datetime import timedelta

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST

from apps.apikeys.models import ApiKey
from apps.apikeys.services import api_key_issue, api_key_revoke, api_key_rotate
from apps.portal.forms import NewKey
from apps.portal.views.access import found, in_workspace


@in_workspace("keys.read", write="keys.write")
@require_http_methods(["GET", "POST"])
def key_list(request: HttpRequest, tenant) -> HttpResponse:
    form, secret = NewKey(request.POST or None), None
    if request.method == "POST" and form.is_valid():
        values = form.cleaned_data
        expires = timezone.now() + timedelta(days=values["days"]) if values["days"] else None
        _, secret = api_key_issue(tenant=tenant, name=values["name"], scopes=values["scopes"], expires_at=expires, limits=form.limits(),
                                  allowed_origins=values["allowed_origins"], actor=request.actor)  # fmt: skip
        form = NewKey()
    return _page(request, tenant, form, secret)


def _page(request: HttpRequest, tenant, form, secret: str | None) -> HttpResponse:
    rows = list(ApiKey.objects.filter(tenant=tenant)[:200])
    return render(request, "portal/keys.html", {
        "tenant": tenant, "keys": rows, "secret": secret, "form": form, "may_write": request.actor.can("keys.write"),
    })  # fmt: skip


def _key(tenant, key_id: str) -> ApiKey:
    return found(ApiKey.objects.filter(tenant=tenant, pk=key_id).first())


@in_workspace("keys.write")
@require_POST
def key_revoke(request: HttpRequest, tenant, key_id: str) -> HttpResponse:
    api_key_revoke(key=_key(tenant, key_id), actor=request.actor)
    messages.success(request, "Revoked. Sessions that used it end now.")
    return redirect("keys", slug=tenant.slug)


@in_workspace("keys.write")
@require_POST
def key_rotate(request: HttpRequest, tenant, key_id: str) -> HttpResponse:
    """The new secret is shown once, on the page this answers with."""
    _, secret = api_key_rotate(key=_key(tenant, key_id), actor=request.actor)
    return _page(request, tenant, NewKey(), secret)
