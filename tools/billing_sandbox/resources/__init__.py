"""One module per noun; importing them fills the tables of routes, views and timers in sandbox.py."""

from tools.billing_sandbox.resources import (  # noqa: F401
    accounts,
    coupons,
    credit_notes,
    customers,
    events,
    invoice_items,
    invoices,
    meters,
    payment_intents,
    payment_methods,
    prices,
    products,
    schedules,
    setup_intents,
    subscriptions,
    tax_rates,
)
