"""Does a provider still know whom it let in? Asked every half a minute for everybody it let in, signed in here or not.

How, is the first of these that a provider offers (`Issuer.checked_by`):
look-up        its list of accounts, read by our client's own service account (Keycloak): says it of anybody at any time
offline token  a refresh token that outlives signing out: refused means that the account is off
session        a refresh token as long as the person is signed in, or nothing: of who is signed out nobody can be asked. A minute after the
               provider last vouched for them (plus the issuer's `trust_minutes`, 0 unless it is changed) they count as gone until they sign
               in again: no page opens, the keys they made rest
A provider that does not answer says nothing: nobody is ended for its outage.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from enum import StrEnum
from typing import Any
from urllib.parse import quote

import requests
from allauth.usersessions.models import UserSession
from django.core.cache import cache
from django.db import transaction
from django.db.models import Q
from django.dispatch import Signal
from django.utils import timezone

from apps.accounts.models import Identity, Issuer, Secret, User
from apps.audit.services import audit_record
from apps.common.actors import SYSTEM
from apps.teams.oidc import ask, service_token

log = logging.getLogger("vivavoce.oidc")
CHECK_EVERY = timedelta(seconds=30)
VOUCHED = timedelta(seconds=40)  # so long one counts as vouched for; with a run every 10 s that is under a minute
BATCH = 1500  # accounts a run asks about
CHECKING = "oidc identities are being checked"
CHECKING_S = 45  # a run that was killed holds up the next for so long at most
HAS_LOOKUP = Q(issuer__endpoints__has_key="users")

identity_ended = Signal()  # user=
identity_unvouched = Signal()  # user=


class Says(StrEnum):
    ALIVE = "alive"
    GONE = "gone"
    UNSURE = "unsure"  # it cannot be asked about this one
    AWAY = "away"


def identities_check() -> int:
    """Ask about who was not asked about for CHECK_EVERY; what a provider refuses ends here. Returns how many accounts ended.

    One run at a time: a refresh token that is used twice is refused by providers that rotate them.
    """
    if not cache.add(CHECKING, 1, CHECKING_S):
        return 0
    try:
        due = list(Identity.objects.select_related("user", "issuer").filter(HAS_LOOKUP | ~Q(refresh_token=""), issuer__active=True, ended_at=None, unvouched_at=None,
                   checked_at__lt=timezone.now() - CHECK_EVERY, user__is_active=True).order_by("checked_at")[:BATCH])  # fmt: skip
        run = _Run({i.issuer_id: i.issuer for i in due})
        with ThreadPoolExecutor(8) as pool:
            ended = sum(_settle(identity, *answer) for identity, answer in zip(due, pool.map(run.ask, due), strict=True))
        rest_unvouched()
        return ended
    finally:
        cache.delete(CHECKING)


class _Run:
    """One round of questions: a service token for each provider with a look-up, and which providers are away."""

    def __init__(self, issuers: dict[str, Issuer]):
        self.away: set[str] = set()
        self.tokens: dict[str, str] = {}
        for issuer in issuers.values():
            if "users" in issuer.endpoints:
                try:
                    self.tokens[issuer.id] = service_token(issuer)
                except (requests.RequestException, ValueError) as error:
                    self._gone_silent(issuer, error)
                except PermissionError as error:
                    log.warning("issuer %s lets us look up no account any more (%s)", issuer.id, error)

    def _gone_silent(self, issuer: Issuer, error: Exception) -> tuple[Says, dict]:
        """The others of its accounts need not ask in this run."""
        log.warning("issuer %s does not answer (%s)", issuer.id, type(error).__name__)
        self.away.add(issuer.id)
        return Says.AWAY, {}

    def ask(self, identity: Identity) -> tuple[Says, dict[str, Any]]:
        """What the provider says, with the answer of its token endpoint where that was asked. In a thread of its own: no database here."""
        issuer = identity.issuer
        if issuer.id in self.away:
            return Says.AWAY, {}
        try:
            said = self._look_up(identity) if issuer.id in self.tokens else Says.UNSURE
            return (said, {"looked_up": True}) if said != Says.UNSURE or not identity.refresh_token else _refresh(identity)
        except (requests.RequestException, ValueError) as error:
            return self._gone_silent(issuer, error)

    def _look_up(self, identity: Identity) -> Says:
        """Keycloak: GET /admin/realms/{realm}/users/{id} -> UserRepresentation with `enabled`; 404 when it was deleted."""
        answer = ask(identity.issuer, "GET", "users", "/" + quote(identity.sub, safe=""), headers={"Authorization": f"Bearer {self.tokens[identity.issuer_id]}"})
        if answer.status_code == 200:
            body = answer.json()
            if not isinstance(body, dict) or body.get("id") != identity.sub:
                return Says.UNSURE
            return Says.GONE if body.get("enabled") is False else Says.ALIVE
        if answer.status_code == 404 and identity.looked_up:  # of one that was never found there, a 404 says that `sub` is another name
            return Says.GONE
        return Says.AWAY if answer.status_code >= 500 else Says.UNSURE


def _refresh(identity: Identity) -> tuple[Says, dict[str, Any]]:
    issuer = identity.issuer
    form = {"grant_type": "refresh_token", "refresh_token": Secret.open(identity.refresh_token), "client_id": issuer.client_id,
            "client_secret": Secret.open(issuer.client_secret)}  # fmt: skip
    answer = ask(issuer, "POST", "token", data=form)
    body = answer.json() if answer.content else {}
    if answer.status_code == 200:
        return Says.ALIVE, body
    if answer.status_code in (400, 401) and isinstance(body, dict) and body.get("error") in ("invalid_grant", "unauthorized_client"):
        return Says.GONE if issuer.endpoints.get("offline") else Says.UNSURE, {"session": "over"}
    return Says.AWAY, {}


def _settle(identity: Identity, said: Says, body: dict[str, Any]) -> bool:
    """Note that it lives (and the new refresh token), or end it. True when it ended."""
    rows = Identity.objects.filter(pk=identity.pk)
    if said == Says.ALIVE:
        token = body.get("refresh_token")
        rows.update(checked_at=timezone.now(), looked_up="looked_up" in body, **({"refresh_token": Secret.seal(token)} if token else {}))
    elif said == Says.GONE:
        identity_end(identity)
    elif said == Says.UNSURE:
        if body.get("session") == "over":  # the one there; whether the account lives nobody says
            rows.update(refresh_token="")
            _sign_out(identity.user)
        _rest(identity)
    return said == Says.GONE


def rest_unvouched() -> None:
    """Of providers without a look-up: whom they did not vouch for lately and cannot be asked about."""
    for issuer in Issuer.objects.filter(active=True).exclude(endpoints__has_key="users"):
        rows = Identity.objects.select_related("user", "issuer").filter(issuer=issuer, refresh_token="", unvouched_at=None, ended_at=None)
        for identity in rows.filter(checked_at__lt=timezone.now() - trusted(issuer))[:BATCH]:
            _rest(identity)


def _rest(identity: Identity) -> None:
    """The keys they made rest until they sign in again, once the time we trust them for is over."""
    now = timezone.now()
    with transaction.atomic():
        late = Identity.objects.filter(pk=identity.pk, unvouched_at=None, checked_at__lt=now - trusted(identity.issuer))
        if late.update(unvouched_at=now) and not identity.user.has_usable_password():  # else the account is ours, too
            identity_unvouched.send(sender=Identity, user=identity.user)


def trusted(issuer: Issuer) -> timedelta:
    """How long one counts as vouched for whom the provider cannot be asked about."""
    return VOUCHED + timedelta(minutes=issuer.trust_minutes)


def must_renew(user: User, issuer_id: str) -> bool:
    """Nobody asks behind the back of this browser, and the last time its person was vouched for is too long ago."""
    identity = Identity.objects.select_related("issuer").filter(user=user, issuer=issuer_id).first()
    if identity is None:
        return False
    if identity.unvouched_at is None and ("users" in identity.issuer.endpoints or identity.refresh_token):
        return False
    return identity.checked_at < timezone.now() - trusted(identity.issuer)


def forget_at_sign_out(request: Any, user: User | None) -> None:
    """Signing out ends the provider's session too, and with it a refresh token that is not an offline one: that it is refused from then on
    says nothing about the account."""
    issuer = Issuer.objects.filter(pk=request.session.get("oidc_issuer")).first() if request and user and user.pk else None
    if issuer and issuer.endpoints.get("end_session") and not issuer.endpoints.get("offline"):
        Identity.objects.filter(user=user, issuer=issuer).update(refresh_token="")


def _sign_out(user: User) -> None:
    for session in UserSession.objects.filter(user=user):
        session.end()


def identity_end(identity: Identity) -> None:
    """The provider knows this account no more: sign out everywhere. Who listens to `identity_ended` ends what they made (keys)."""
    with transaction.atomic():
        Identity.objects.filter(pk=identity.pk).update(refresh_token="", ended_at=timezone.now())
        _sign_out(identity.user)
        audit_record(actor=SYSTEM, action="identity.ended", target=identity.user_id, after={"issuer": identity.issuer_id})
        identity_ended.send(sender=Identity, user=identity.user)
