"""Host names of a workspace's own: they lead to its portal pages and to nobody else's. Operators set them; DNS and TLS are theirs to arrange."""

from __future__ import annotations

import re
import time

from django.conf import settings
from django.db import IntegrityError, transaction
from django.http import Http404
from django.http.request import split_domain_port, validate_host

from apps.audit.services import audit_record
from apps.common.actors import Actor
from apps.common.errors import BadRequest, Conflict
from apps.tenants.context import bound
from apps.tenants.models import Domain, Tenant

KNOWN_S, KNOWN = 5.0, 1000  # how long, and of how many hosts, a process remembers whose they are
HOST = re.compile(r"(?=.{4,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)+\Z")
# What belongs to the installation and to no workspace
NOT_THERE = ("/admin", "/impersonate/", "/new", "/progress/", "/stripe/", "/api/v1/admin/", "/api/v1/auth/signup", "/api/v1/workspaces", "/accounts/signup/",
             "/invitations/")
_known: dict[str, tuple[float, str | None]] = {}


def domain_add(*, tenant: Tenant, host: str, actor: Actor) -> Domain:
    """Raises Forbidden, BadRequest, Conflict (another workspace's, or one that is no more)."""
    actor.require("platform")
    host = host.strip().lower().rstrip(".")
    if not HOST.match(host) or re.fullmatch(r"[0-9.]+", host):
        raise BadRequest(f"{host[:80]!r} is not a host name such as voice.example.com", param="host")
    if validate_host(host, settings.ALLOWED_HOSTS):
        raise BadRequest(f"{host!r} is the installation's own (ALLOWED_HOSTS)", param="host")
    if tenant.status in (Tenant.Status.PROVISIONING, Tenant.Status.ERASED):
        raise Conflict(f"workspace {tenant.slug!r} is {tenant.status}")
    try:
        with transaction.atomic():
            row = Domain(tenant=tenant, domain=host, is_primary=not tenant.domains.exists())
            row.save(force_insert=True)
            _audit(tenant, actor, "domain.added", {"after": {"host": host}})
    except IntegrityError as error:
        raise Conflict(f"{host} leads to a workspace already", param="host") from error
    _known.pop(host, None)
    return row


def domain_remove(*, domain: Domain, actor: Actor) -> None:
    """It is nobody's host within seconds. Raises Forbidden."""
    actor.require("platform")
    with transaction.atomic():
        _audit(domain.tenant, actor, "domain.removed", {"before": {"host": domain.domain}})
        domain.delete()
    _known.pop(domain.domain, None)


def _audit(tenant: Tenant, actor: Actor, action: str, values: dict) -> None:
    line = {"actor": actor, "action": action, "target": tenant.id, **values}
    audit_record(**line)
    with bound(tenant):
        audit_record(**line)


def _slug_at(host: str) -> str | None:
    """The slug of the workspace whose host that is."""
    at, slug = _known.get(host, (0.0, None))
    if at < time.monotonic():
        slug = Domain.objects.filter(domain=host).exclude(tenant__status=Tenant.Status.ERASED).values_list("tenant__slug", flat=True).first()
        if len(_known) >= KNOWN:
            _known.clear()
        _known[host] = time.monotonic() + KNOWN_S, slug
    return slug


def own_host(get_response):
    """`request.own_slug`: of the workspace whose host was asked, else "". A host that is neither ours nor a workspace's stays refused (400)."""

    def middleware(request):
        request.own_slug = ""
        host, _ = split_domain_port(request.META.get("HTTP_HOST", ""))
        if host and HOST.match(host) and not validate_host(host, settings.ALLOWED_HOSTS) and (slug := _slug_at(host)):
            request.own_slug = slug
            said = request.META["HTTP_HOST"].lower()
            request.get_host = lambda: said  # as Django would say it of a host in ALLOWED_HOSTS
        return get_response(request)

    return middleware


def only_what_is_there(get_response):
    """On a workspace's host there is no other workspace, and nothing of the installation."""

    def middleware(request):
        slug = request.own_slug
        if slug and (request.path.startswith(NOT_THERE) or request.path.startswith("/t/") and not request.path.startswith(f"/t/{slug}/")):
            raise Http404
        return get_response(request)

    return middleware
