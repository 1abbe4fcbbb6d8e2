"""Mail to owners and billing members when spend reaches a share of the cap: each share once a period."""

from __future__ import annotations

from django.conf import settings
from django.db import transaction

from apps.common.mail import mail_later
from apps.teams.models import Membership, Role
from apps.tenants.context import current
from apps.usage.ledger import account_get
from apps.usage.models import Account, OpenPeriod
from apps.usage.money import cost_micros
from apps.usage.reservations import refusal


def check_alerts() -> None:
    """After the sums have grown."""
    account = Account.objects.filter(pk=1).first()
    if account and account.alerts and account.cap_micros:
        _send(account, cost_micros(account.used, account.rates, account.included) * 100 // account.cap_micros)


def cap_reached() -> tuple[str, str]:
    """A session had to end: nothing is left that it could hold. (code, message) for its client."""
    account = account_get()
    code, message = refusal(account)
    if account.alerts and code == "billing_hard_limit_reached":
        _send(account, 100)
    return code, message


@transaction.atomic
def _send(account: Account, per_cent: int) -> None:
    period = OpenPeriod.objects.get(pk=1).number
    due = {a for a in account.alerts if a <= per_cent}
    if due <= set(_sent(account, period)):
        return
    account = Account.objects.select_for_update().get(pk=1)
    sent = _sent(account, period)
    new = sorted(due - set(sent))
    if not new:
        return
    account.alerted = {"period": period, "sent": sorted({*sent, *new})}
    account.save(update_fields=["alerted"])
    tenant = current()
    amount = f"{account.cap_micros / 10**6:.2f} {account.currency.upper()}"
    body = (f"The workspace {tenant.slug} has used {new[-1]} % of its spend cap of {amount} in this period.\n"
            + ("Live sessions were ended and new ones are refused until the cap is raised or the period ends.\n" if new[-1] >= 100 else "")
            + f"\n{settings.PORTAL_URL}/t/{tenant.slug}/usage\n")  # fmt: skip
    members = Membership.objects.filter(tenant_id=tenant.tenant_id, role__in=[Role.OWNER, Role.BILLING])
    for address in members.values_list("user__email", flat=True):
        mail_later("spend_alert", address, f"{new[-1]} % of the spend cap of {tenant.slug} is used", body)


def _sent(account: Account, period: int) -> list[int]:
    return account.alerted.get("sent", []) if account.alerted.get("period") == period else []
