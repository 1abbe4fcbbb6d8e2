from __future__ import annotations

from apps.accounts.models import User
from apps.teams.models import Membership


def memberships_of(user: User) -> list[Membership]:
    return list(Membership.objects.filter(user=user).select_related("tenant").order_by("created_at"))


def membership_in(user: User, slug: str) -> Membership | None:
    """None for a stranger: the page is then 404, as if the tenant did not exist."""
    return Membership.objects.filter(user=user, tenant__slug=slug).select_related("tenant").first()
