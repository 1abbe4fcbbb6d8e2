"""What subscriptions do: begin, change, renew, fall past due, end; at a caller's wish and by themselves as time passes."""

from __future__ import annotations

from decimal import Decimal

from tools.billing_sandbox.clock import period_around
from tools.billing_sandbox.errors import CardError, StripeError
from tools.billing_sandbox.invoicing import REACTIONS, collect, draft, finalize, hold, subscription_of, void
from tools.billing_sandbox.lines import day, invoice_item_make, item_line, pending_items, usage_amount
from tools.billing_sandbox.proration import Holding, prorations
from tools.billing_sandbox.resources.meters import aggregated
from tools.billing_sandbox.sandbox import Sandbox, timer

SUBSCRIPTION = {  # what may follow which status
    "incomplete": {"active", "incomplete_expired", "canceled", "trialing"},
    "trialing": {"active", "past_due", "canceled", "paused"},
    "active": {"past_due", "unpaid", "canceled", "trialing"},
    "past_due": {"active", "unpaid", "canceled"},
    "unpaid": {"active", "canceled"},
    "paused": {"active", "past_due", "canceled"},
    "incomplete_expired": set(),
    "canceled": set(),
}
ENDED = ("canceled", "incomplete_expired")
INCOMPLETE_S = 23 * 3600  # how long a first payment may take
TRIAL_NOTICE_S = 3 * 86_400
TIMERS = ("1_schedule", "2_cancel", "3_period_end", "incomplete_expiry", "trial_notice", "upcoming", "resume")
UPCOMING_S = 7 * 86_400


def move(subscription: dict, status: str) -> None:
    """Raises StripeError on a move the state machine does not have."""
    if status != subscription["status"] and status not in SUBSCRIPTION[subscription["status"]]:
        raise StripeError(f"This subscription is {subscription['status']}; it cannot become {status}.", None, "subscription_unexpected_state")
    subscription["status"] = status


# Items and periods


def price_of(sandbox: Sandbox, item: dict) -> dict:
    return sandbox.store.get(item["price"])


def metered(sandbox: Sandbox, item: dict) -> bool:
    return price_of(sandbox, item)["recurring"]["usage_type"] == "metered"


def cycle_of(sandbox: Sandbox, items: list[dict]) -> tuple[str, int]:
    """(interval, count) shared by all items. Raises StripeError when they differ."""
    found = {(p["recurring"]["interval"], p["recurring"]["interval_count"]) for p in (price_of(sandbox, i) for i in items)}
    if len(found) != 1:
        raise StripeError("Currently, all items of a subscription must have the same billing interval (the billing sandbox does not mix them).", "items")
    return found.pop()


def period_of(subscription: dict) -> tuple[int, int]:
    item = subscription["_items"][0]
    return item["current_period_start"], item["current_period_end"]


def set_period(sandbox: Sandbox, subscription: dict, start: int, end: int) -> None:
    for item in subscription["_items"]:
        item |= {"current_period_start": start, "current_period_end": end}
    sandbox.timer(subscription, "3_period_end", end)
    upcoming = end - UPCOMING_S
    sandbox.timer(subscription, "upcoming", upcoming if upcoming > sandbox.now() else None)


def begin_cycle(sandbox: Sandbox, subscription: dict, anchor: int) -> None:
    """Start counting periods anew from `anchor`."""
    subscription["billing_cycle_anchor"] = anchor
    start, end = period_around(anchor, *cycle_of(sandbox, subscription["_items"]), anchor)
    set_period(sandbox, subscription, start, end)


def name_of(sandbox: Sandbox, item: dict) -> str:
    price = price_of(sandbox, item)
    return price["nickname"] or sandbox.store.get(price["product"])["name"]


def licensed_lines(sandbox: Sandbox, subscription: dict, start: int, end: int) -> list[dict]:
    """The flat charges for [start, end), in advance."""
    lines = []
    for item in subscription["_items"]:
        if not metered(sandbox, item):
            amount = usage_amount(price_of(sandbox, item), Decimal(item["quantity"]))
            text = f"{item['quantity']} × {name_of(sandbox, item)}"
            lines.append(item_line(sandbox, subscription, item, start=start, end=end, amount=amount, quantity=item["quantity"], description=text))
    return lines


def usage_lines(sandbox: Sandbox, subscription: dict, start: int, end: int) -> list[dict]:
    """The metered charges for what was used in [start, end), in arrears; their quantities are set when the invoice is measured."""
    lines = []
    for item in subscription["_items"]:
        if metered(sandbox, item):
            begin = max(start, item["_usage_from"])
            line = item_line(sandbox, subscription, item, start=begin, end=end, amount=0, quantity=0, description=name_of(sandbox, item))
            lines.append(line | {"_metered": {"price": item["price"], "start": begin, "end": end, "name": name_of(sandbox, item)}})
    return lines


# The beginning


def subscription_begin(sandbox: Sandbox, subscription: dict, customer: dict, payment_behavior: str) -> dict:
    """Start a subscription whose items are set: its first period, its first invoice, its first payment.

    Raises CardError (error_if_incomplete) when the payment fails, StripeError when there is no payment method to try."""
    now, trial_end = sandbox.now(), subscription["trial_end"]
    if trial_end:
        move(subscription, "trialing")
        subscription["billing_cycle_anchor"] = trial_end
        set_period(sandbox, subscription, now, trial_end)
        notice = trial_end - TRIAL_NOTICE_S
        sandbox.timer(subscription, "trial_notice", max(notice, now))
    else:
        _begin_paid(sandbox, subscription, subscription["billing_cycle_anchor"])
    start, end = period_of(subscription)
    lines = _trial_lines(sandbox, subscription, start, end) if trial_end else _first_lines(sandbox, subscription, start, end)
    sandbox.save(subscription)
    invoice = draft(sandbox, customer, currency=subscription["currency"], reason="subscription_create", lines=lines, subscription=subscription, start=start, end=start)
    subscription["latest_invoice"] = invoice["id"]
    sandbox.save(subscription)
    sandbox.emit("customer.subscription.created", subscription)
    sandbox.emit("invoice.created", invoice)
    finalize(sandbox, invoice)
    take_payment(sandbox, subscription, invoice, payment_behavior)
    sandbox.reload(subscription)
    if subscription["status"] == "incomplete":
        sandbox.timer(subscription, "incomplete_expiry", now + INCOMPLETE_S)
    return subscription


def _begin_paid(sandbox: Sandbox, subscription: dict, anchor: int | None) -> None:
    now = sandbox.now()
    if anchor is None or anchor == now:
        begin_cycle(sandbox, subscription, now)
        return
    start, end = period_around(anchor, *cycle_of(sandbox, subscription["_items"]), now)
    subscription["_full_start"] = start  # the first period is cut short: its charge is prorated
    set_period(sandbox, subscription, now, end)


def _first_lines(sandbox: Sandbox, subscription: dict, start: int, end: int) -> list[dict]:
    lines = licensed_lines(sandbox, subscription, start, end)
    if full_start := subscription.pop("_full_start", None):
        from tools.billing_sandbox.proration import remaining_share

        for line in lines:
            line["amount"] = remaining_share(line["amount"], full_start, end, start)
    return lines


def _trial_lines(sandbox: Sandbox, subscription: dict, start: int, end: int) -> list[dict]:
    lines = []
    for item in subscription["_items"]:
        text = f"Trial period for {name_of(sandbox, item)}"
        lines.append(item_line(sandbox, subscription, item, start=start, end=end, amount=0, quantity=item.get("quantity") or 0, description=text))
    return lines


def take_payment(sandbox: Sandbox, subscription: dict, invoice: dict, payment_behavior: str) -> None:
    """Charge a finalised invoice as `payment_behavior` says. Raises CardError (nothing is kept) for error_if_incomplete."""
    if invoice["status"] != "open" or payment_behavior == "default_incomplete":
        return
    collect(sandbox, invoice)
    if invoice["status"] == "open" and payment_behavior == "error_if_incomplete" and invoice["collection_method"] == "charge_automatically":
        intent = sandbox.store.get(invoice["_intent"])
        last = intent["last_payment_error"] or {"message": "This payment needs its owner's confirmation.", "code": "subscription_payment_intent_requires_action"}
        error = CardError(last["message"], None, last["code"], **({"decline_code": last["decline_code"]} if "decline_code" in last else {}))
        error.keep = False
        raise error


def _heard(sandbox: Sandbox, subscription: dict, invoice: dict, outcome: str) -> None:
    """An invoice of the subscription was paid, or an attempt to pay it failed."""
    if subscription["status"] in ENDED or invoice["id"] != subscription["latest_invoice"]:
        return
    if outcome == "paid" and subscription["status"] in ("incomplete", "past_due", "unpaid", "paused"):
        move(subscription, "active")
        sandbox.timer(subscription, "incomplete_expiry", None)
        sandbox.save(subscription, "customer.subscription.updated")
    elif outcome == "failed" and subscription["status"] in ("active", "trialing", "past_due"):
        last = invoice["next_payment_attempt"] is None and subscription["status"] == "past_due"
        end = sandbox.store.setting("dunning_end", "unpaid") if last else "past_due"
        if end == "canceled":
            subscription_end(sandbox, subscription, "canceled", reason="payment_failed")
        else:
            move(subscription, end)
            sandbox.save(subscription, "customer.subscription.updated")


REACTIONS.append(_heard)


@timer("incomplete_expiry")
def _expire(sandbox: Sandbox, subscription: dict) -> None:
    if subscription["status"] == "incomplete":
        subscription_end(sandbox, subscription, "incomplete_expired")


@timer("trial_notice")
def _trial_notice(sandbox: Sandbox, subscription: dict) -> None:
    if subscription["status"] == "trialing":
        sandbox.emit("customer.subscription.trial_will_end", subscription)


# As time passes


@timer("3_period_end")
def period_end(sandbox: Sandbox, subscription: dict) -> None:
    if subscription["status"] in ENDED or subscription["status"] == "paused":
        return
    if subscription["status"] == "incomplete":
        sandbox.timer(subscription, "3_period_end", sandbox.now() + INCOMPLETE_S)
        return
    if subscription["cancel_at_period_end"]:
        end_with_final_invoice(sandbox, subscription)
    elif subscription["status"] == "trialing" and not _can_go_on(sandbox, subscription):
        return
    else:
        renew(sandbox, subscription)


def _can_go_on(sandbox: Sandbox, subscription: dict) -> bool:
    """At the end of a trial: is there a card, or does the subscription not insist on one?"""
    behavior = subscription["trial_settings"]["end_behavior"]["missing_payment_method"]
    customer = sandbox.store.get(subscription["customer"])
    if behavior == "create_invoice" or subscription["default_payment_method"] or customer["invoice_settings"]["default_payment_method"]:
        return True
    if behavior == "cancel":
        subscription_end(sandbox, subscription, "canceled")
    else:
        move(subscription, "paused")
        sandbox.save(subscription, "customer.subscription.paused")
    return False


def renew(sandbox: Sandbox, subscription: dict) -> dict:
    """Enter the next period; its invoice is a draft for an hour. Returns the draft."""
    invoice = renewal_draft(sandbox, subscription)
    if subscription["status"] == "trialing":
        move(subscription, "active")
    sandbox.save(subscription, "customer.subscription.updated")
    if subscription["status"] == "unpaid" or subscription["pause_collection"]:
        invoice["auto_advance"] = False
    if (subscription["pause_collection"] or {}).get("behavior") == "void":
        sandbox.save(invoice, "invoice.created")
        finalize(sandbox, invoice)
        if invoice["status"] == "open":
            void(sandbox, invoice)
        return invoice
    hold(sandbox, invoice)
    return invoice


def renewal_draft(sandbox: Sandbox, subscription: dict) -> dict:
    """Move `subscription` (not saved) into its next period and draft that period's invoice."""
    start, end = period_of(subscription)
    next_start, next_end = period_around(subscription["billing_cycle_anchor"], *cycle_of(sandbox, subscription["_items"]), end)
    usage = usage_lines(sandbox, subscription, start, end) if subscription["status"] != "trialing" else []
    set_period(sandbox, subscription, end, next_end)
    for item in subscription["_items"]:
        item["_usage_from"] = end
    lines = licensed_lines(sandbox, subscription, end, next_end) + usage
    customer = sandbox.store.get(subscription["customer"])
    invoice = draft(sandbox, customer, currency=subscription["currency"], reason="subscription_cycle", lines=lines, subscription=subscription, start=start, end=end)
    subscription["latest_invoice"] = invoice["id"]
    return invoice


@timer("upcoming")
def _upcoming(sandbox: Sandbox, subscription: dict) -> None:
    if subscription["status"] in ("active", "trialing") and not subscription["cancel_at_period_end"]:
        sandbox.emit("invoice.upcoming", upcoming(sandbox, subscription))


def upcoming(sandbox: Sandbox, subscription: dict) -> dict:
    """The invoice of the period's end as things stand, without keeping anything."""
    from tools.billing_sandbox.preview import preview

    return preview(sandbox, lambda: next_invoice(sandbox, subscription))


def next_invoice(sandbox: Sandbox, subscription: dict) -> None:
    """Go to the period's end and finalise that invoice: only inside a preview."""
    with sandbox.at(max(sandbox.now(), period_of(subscription)[1])):
        if subscription["cancel_at_period_end"]:
            end_with_final_invoice(sandbox, subscription)
        else:
            finalize(sandbox, renewal_draft(sandbox, subscription))


# The end


def end_with_final_invoice(sandbox: Sandbox, subscription: dict) -> None:
    """At the period's end of one that was cancelled: bill what was used and what is pending, then end."""
    start, end = period_of(subscription)
    usage = usage_lines(sandbox, subscription, start, min(end, sandbox.now())) if subscription["status"] != "trialing" else []
    customer = sandbox.store.get(subscription["customer"])
    if usage or pending_items(sandbox, customer["id"], subscription["id"]):
        invoice = draft(sandbox, customer, currency=subscription["currency"], reason="subscription_cycle", lines=usage, subscription=subscription, start=start, end=end)
        subscription["latest_invoice"] = invoice["id"]
        if sandbox.previewing:
            finalize(sandbox, invoice)
        hold(sandbox, invoice)
    subscription_end(sandbox, subscription, "canceled", reason="cancellation_requested")


def subscription_end(sandbox: Sandbox, subscription: dict, status: str, reason: str | None = None) -> dict:
    """No more periods. Its drafts are no longer finalised by themselves; a first invoice that was never paid is voided."""
    move(subscription, status)
    now = sandbox.now()
    subscription |= {"ended_at": now, "canceled_at": subscription["canceled_at"] or now, "cancel_at_period_end": False}
    if reason:
        subscription["cancellation_details"] = subscription["cancellation_details"] | {"reason": reason}
    for name in TIMERS:
        sandbox.timer(subscription, name, None)
    if status == "incomplete_expired":
        invoice = sandbox.store.get(subscription["latest_invoice"])
        if invoice["status"] == "open":
            void(sandbox, invoice)
        return sandbox.save(subscription, "customer.subscription.updated")
    sandbox.save(subscription)
    sandbox.emit("customer.subscription.deleted", subscription)
    return subscription


# Changes


def holdings(sandbox: Sandbox, subscription: dict) -> list[Holding]:
    """What flat charges were (or will be) paid for in the current period."""
    start, end = period_of(subscription)
    return [Holding(f"{i['id']}/{i['price']}", Decimal(price_of(sandbox, i)["unit_amount_decimal"]), i["quantity"], start, end)
            for i in subscription["_items"] if not metered(sandbox, i)]  # fmt: skip


def prorate(sandbox: Sandbox, subscription: dict, before: list[Holding], after: list[Holding], at: int) -> None:
    """Pending invoice items for the change at `at`: a credit for each unused rest, a charge for each new one."""
    for line in prorations(before, after, at):
        item_id, price_id = line.holding.key.split("/")
        price = sandbox.store.get(price_id)
        name = price["nickname"] or sandbox.store.get(price["product"])["name"]
        what = name if line.holding.quantity == 1 else f"{line.holding.quantity} × {name}"
        invoice_item_make(
            sandbox, customer=subscription["customer"], amount=line.amount, currency=price["currency"], start=at, end=line.holding.end, price=price,
            description=f"{'Unused' if line.credit else 'Remaining'} time on {what} after {day(at)}", quantity=line.holding.quantity,
            subscription=subscription["id"], subscription_item=item_id, proration=True, tax_rates=_rates(subscription, item_id),
        )  # fmt: skip


def _rates(subscription: dict, item_id: str) -> list[str]:
    return next((i["tax_rates"] for i in subscription["_items"] if i["id"] == item_id), [])


def bill_usage(sandbox: Sandbox, subscription: dict, item: dict, until: int) -> None:
    """A metered item goes before its period is over: what was used until then becomes a pending charge."""
    price, start = price_of(sandbox, item), max(item["current_period_start"], item["_usage_from"])
    if start >= until:
        return
    quantity = aggregated(sandbox, sandbox.store.get(price["recurring"]["meter"]), subscription["customer"], start, until)
    if quantity:
        invoice_item_make(sandbox, customer=subscription["customer"], amount=usage_amount(price, quantity), currency=price["currency"], start=start, end=until,
                          price=price, description=f"{int(quantity)} × {name_of(sandbox, item)} until {day(until)}", quantity=int(quantity),
                          subscription=subscription["id"], subscription_item=item["id"], metadata=item["metadata"], tax_rates=item["tax_rates"])  # fmt: skip


def invoice_now(sandbox: Sandbox, subscription: dict, payment_behavior: str, lines: list[dict] | None = None) -> dict | None:
    """Bill the pending items (and `lines`) at once; None when there are none."""
    customer = sandbox.store.get(subscription["customer"])
    if not lines and not pending_items(sandbox, customer["id"], subscription["id"]):
        return None
    sandbox.save(subscription)
    invoice = draft(sandbox, customer, currency=subscription["currency"], reason="subscription_update", lines=lines or [], subscription=subscription)
    subscription["latest_invoice"] = invoice["id"]
    sandbox.save(subscription)
    if not sandbox.previewing:
        sandbox.emit("invoice.created", invoice)
    finalize(sandbox, invoice)
    take_payment(sandbox, subscription, invoice, payment_behavior)
    sandbox.reload(subscription)
    return invoice


def owed(sandbox: Sandbox, subscription: dict) -> list[dict]:
    """Its open invoices, newest first."""
    return [i for i in sandbox.find("invoice", subscription=subscription["id"]) if i["status"] == "open" and subscription_of(i) == subscription["id"]]
