from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from apps.common.errors import VivavoceError
from apps.portal.forms import Invite
from apps.portal.views.access import found, in_workspace
from apps.teams import services
from apps.teams.models import Invitation, Membership, Role
from apps.teams.permissions import matrix


@in_workspace("team.read", write="team.write")
@require_http_methods(["GET", "POST"])
def team(request: HttpRequest, tenant) -> HttpResponse:
    form = Invite(request.POST or None)
    if request.method == "POST" and form.is_valid():
        services.invitation_create(tenant=tenant, actor=request.actor, **form.cleaned_data)
        messages.success(request, f"{form.cleaned_data['email']} gets a mail with the link.")
        return redirect("team", slug=tenant.slug)
    members = list(Membership.objects.filter(tenant=tenant).select_related("user").order_by("created_at"))
    invitations = [i for i in Invitation.objects.filter(tenant=tenant).order_by("-created_at")[:100] if i.state in ("open", "expired")]
    return render(request, "portal/team.html", {
        "tenant": tenant, "form": form, "members": members, "invitations": invitations, "roles": Role.choices, "matrix": matrix(),
        "role_names": [Role(r).label for r in ("owner", "admin", "developer", "billing", "viewer")],
    })  # fmt: skip


def _member(tenant, member_id: str) -> Membership:
    return found(Membership.objects.select_related("tenant", "user").filter(tenant=tenant, pk=member_id).first())


@in_workspace("team.write")
@require_POST
def member_role(request: HttpRequest, tenant, member_id: str) -> HttpResponse:
    services.member_role_change(membership=_member(tenant, member_id), role=request.POST.get("role", ""), actor=request.actor)
    return redirect("team", slug=tenant.slug)


@in_workspace("tenant.read", any_status=True)
@require_POST
def member_remove(request: HttpRequest, tenant, member_id: str) -> HttpResponse:
    """Others with team.write; oneself always (leaving)."""
    member = _member(tenant, member_id)
    services.member_remove(membership=member, actor=request.actor)
    return redirect("home" if member.user_id == request.user.id else "team", **({} if member.user_id == request.user.id else {"slug": tenant.slug}))


@in_workspace("tenant.own")
@require_POST
def transfer(request: HttpRequest, tenant, member_id: str) -> HttpResponse:
    services.ownership_transfer(membership=_member(tenant, member_id), actor=request.actor)
    return redirect("overview", slug=tenant.slug)


@in_workspace("team.write")
@require_POST
def invitation_act(request: HttpRequest, tenant, invitation_id: str, what: str) -> HttpResponse:
    """resend or revoke"""
    invitation = found(Invitation.objects.select_related("tenant").filter(tenant=tenant, pk=invitation_id).first())
    act = services.invitation_resend if what == "resend" else services.invitation_revoke
    act(invitation=invitation, actor=request.actor)
    return redirect("team", slug=tenant.slug)


@never_cache
@require_http_methods(["GET", "POST"])
def invitation(request: HttpRequest, token: str) -> HttpResponse:
    """Where the mail's link leads. A stranger is asked to sign in or up first and comes back."""
    try:
        found_one = services.invitation_read(token=token)
        if request.method == "POST" and request.user.is_authenticated:
            member = services.invitation_accept(token=token, user=request.user)
            return redirect("overview", slug=member.tenant.slug)
    except VivavoceError as error:
        return render(request, "portal/notice.html", {"title": "Invitation", "text": error.message}, status=error.status)
    return render(request, "portal/invitation.html", {"invitation": found_one, "next": request.path})
