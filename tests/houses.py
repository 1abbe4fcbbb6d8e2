"""Two workspaces for tests of who reaches what: each with something of everything, all of it marked with its canary."""

from __future__ import annotations

import time

from django.test import Client
from django.utils import timezone

from apps.accounts.models import Issuer, User
from apps.agents.services import agent_create, draft_save
from apps.apikeys.impersonation import impersonation_issue
from apps.apikeys.models import Impersonation
from apps.apikeys.services import SCOPES, api_key_issue, operator_key_issue
from apps.billing.models import Invoice, InvoiceLine
from apps.common.actors import SYSTEM, Actor
from apps.conversations.models import Item, VoiceSession
from apps.onboarding.services import workspace_create
from apps.teams.models import Membership, Role
from apps.teams.permissions import operator
from apps.teams.services import invitation_create
from apps.tenants.context import bound
from apps.tenants.services import tenant_update
from apps.usage.services import usage_record

BACKEND = "allauth.account.auth_backends.AuthenticationBackend"


class House:
    def __init__(self, word: str):
        self.canary = f"canary-{word}-{time.time_ns()}"
        self.tenant = workspace_create(name=self.canary, slug=f"{word}-{time.time_ns() % 10**10}")
        tenant_update(tenant=self.tenant, actor=SYSTEM, email=f"{self.canary}@example.com")
        self.members = {role: self._member(role) for role in Role.values}
        self.key, self.secret = api_key_issue(tenant=self.tenant, name=self.canary, scopes=list(SCOPES), actor=SYSTEM)
        self.secrets = {scope: api_key_issue(tenant=self.tenant, name=scope, scopes=[scope], actor=SYSTEM)[1] for scope in SCOPES}
        self.looking = {(role, writable): impersonation_issue(tenant=self.tenant, role=role, reason=self.canary, writable=writable, actor=self._operator())[1]
                        for role, writable in (("owner", False), ("owner", True), ("viewer", True))}  # fmt: skip
        self.impersonation = Impersonation.objects.filter(tenant=self.tenant).first()
        self.invitation, _ = invitation_create(tenant=self.tenant, email=f"guest-{self.canary}@example.com", role="viewer", actor=SYSTEM)
        self.issuer = Issuer.objects.create(tenant=self.tenant, name=self.canary, issuer=f"https://{self.canary}.example", client_id=self.canary)
        with bound(self.tenant):
            self.agent = agent_create(name=self.canary, instructions=self.canary, actor=SYSTEM)
            draft_save(agent=self.agent, actor=SYSTEM, tool_hosts=[], greeting=self.canary)
            self.session = VoiceSession.objects.create(id=f"sess_{self.canary}", agent_id=self.agent.id, agent_version=1, key_id=self.key.id)
            item = {"id": "item_1", "type": "message", "role": "user", "content": [{"type": "input_text", "text": self.canary}]}
            usage_record(session_id=self.session.id, turn_id="turn_1", meters={"session_ms": 1000})
            Item.objects.create(session=self.session, item_id="item_1", type="message", role="user", item=item)

        self.invoice, self.line = self._invoice()

    def _operator(self) -> Actor:
        return operator(User.objects.create_superuser(f"operator-{time.time_ns()}@example.com", "a-long-password-7"))

    def _invoice(self) -> tuple[Invoice, InvoiceLine]:
        now, common = timezone.now(), {"tenant": self.tenant, "currency": "usd", "starts": timezone.now(), "ends": timezone.now()}
        invoice = Invoice.objects.create(**common, number=self.canary, bill_to={"name": self.canary}, created_at=now)
        line = InvoiceLine.objects.create(**common, invoice=invoice, kind="usage", description=self.canary, meter="session_ms", period=1, quantity=1000, amount_micros=0, amount_cents=0)
        return invoice, line

    def _member(self, role: str) -> Client:
        user = User.objects.create_user(f"{role}-{self.canary}@example.com", "a-long-password-7")
        membership = Membership.objects.create(tenant=self.tenant, user=user, role=role)
        client = Client()
        client.force_login(user, backend=BACKEND)
        client.membership = membership
        return client

    @property
    def ids(self) -> dict[str, str]:
        return {"agent_id": self.agent.id, "session_id": self.session.id, "key_id": self.key.id, "member_id": self.members["viewer"].membership.id,
                "invitation_id": self.invitation.id, "issuer_id": self.issuer.id, "one": "1", "other": "2", "number": "1", "tenant_id": self.tenant.id,
                "slug": self.tenant.slug, "browser_id": "1", "invoice_id": self.invoice.id, "line_id": str(self.line.pk), "card_id": "pm_1", "impersonation_id": self.impersonation.id}  # fmt: skip


def operator_secret() -> str:
    return operator_key_issue(name="tests", actor=SYSTEM)[1]


def fill(route: str, ids: dict[str, str]) -> str:
    """The address of a route with these ids in it."""
    for name, value in ids.items():
        for kind in ("str", "int", "slug"):
            route = route.replace(f"<{kind}:{name}>", value)
        route = route.replace(f"{{{name}}}", value)
    return route.replace("<agentact:what>", "rollback").replace("<invitationact:what>", "resend").replace("<cardact:what>", "default").replace("<invoicefile:kind>", "csv")


def seen(answer) -> str:
    """Body and headers of an answer."""
    body = b"".join(answer.streaming_content) if answer.streaming else answer.content
    return body.decode(errors="replace") + str(answer.headers)


def contents(client, key: bytes) -> list[str]:
    """Each value that a key of Redis holds, with the key before it."""
    read = {
        b"string": lambda: [client.get(key) or b""], b"list": lambda: client.lrange(key, 0, -1), b"set": lambda: client.smembers(key),
        b"zset": lambda: client.zrange(key, 0, -1), b"hash": lambda: [b"%s %s" % pair for pair in client.hgetall(key).items()],
        b"stream": lambda: [b" ".join(x for pair in fields.items() for x in pair) for _, fields in client.xrange(key)],
    }.get(client.type(key), list)  # fmt: skip
    return [f"{key.decode(errors='replace')} {value.decode(errors='replace')}" for value in read()]
