"""The door of every page under /t/<slug>/: members only (else 404), with a permission, their tenant bound."""

from __future__ import annotations

import functools
from collections.abc import Callable
from urllib.parse import urlsplit

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache

from apps.apikeys.impersonation import acting
from apps.common.errors import NotFound, VivavoceError
from apps.teams.selectors import membership_in
from apps.tenants.context import bound
from apps.tenants.models import Tenant

Status = Tenant.Status


def in_workspace(permission: str, write: str = "", any_status: bool = False) -> Callable:
    """`write`: the permission of POST. What a service refuses becomes a message on the page the form came from."""

    def decorate(view: Callable) -> Callable:
        @never_cache
        @login_required
        @functools.wraps(view)
        def wrapped(request: HttpRequest, slug: str, **kwargs) -> HttpResponse:
            membership = membership_in(request.user, slug)
            needed = write if write and request.method == "POST" else permission
            actor = acting(membership, request.session.get("impersonated")) if membership else None
            if actor is None or not actor.can(needed):
                raise Http404
            tenant = membership.tenant
            request.tenant, request.membership, request.actor = tenant, membership, actor
            if tenant.status == Status.PROVISIONING:
                return redirect("progress", slug=slug)
            if tenant.status != Status.ACTIVE and not any_status:
                return render(request, "portal/inactive.html", {"tenant": tenant}, status=403)
            with bound(tenant):
                return _call(view, request, kwargs)

        return wrapped

    return decorate


def _call(view: Callable, request: HttpRequest, kwargs: dict) -> HttpResponse:
    try:
        return view(request, request.tenant, **kwargs)
    except NotFound as error:
        raise Http404 from error
    except VivavoceError as error:
        if request.method != "POST":
            raise
        messages.error(request, error.message)
        return redirect(back(request))


def back(request: HttpRequest) -> str:
    """The page a form came from, if it is one of ours; else the workspace."""
    referer = request.META.get("HTTP_REFERER", "")
    if url_has_allowed_host_and_scheme(referer, {request.get_host()}, require_https=request.is_secure()):
        return urlsplit(referer).path
    return f"/t/{request.tenant.slug}/"


def found(row):
    """The row, or 404."""
    if row is None:
        raise Http404
    return row
