"""The billing sandbox: a local stand-in for Stripe's HTTP API, in a process of its own.

It is not Stripe and moves no money. It speaks as much of Stripe's shape as this product uses, so that billing works on a machine
without a Stripe account: `python -m tools.billing_sandbox --port 12111 --data FOLDER --secret-key sk_test_…`. Standard library and
uvicorn only; it knows nothing of Django. What it cannot do is listed in docs/operations.md. Facts about Stripe's behaviour come
from docs.stripe.com (Billing: subscriptions, prorations, meters, webhooks; API version 2026-08-26.dahlia).

    clock, proration, forms, errors     pure
    store, sandbox                      state (SQLite; one transaction a request) and what every resource needs of it
    resources/                          one file a noun: its shape, its routes, what may change
    lifecycle, invoicing, payments      what subscriptions, invoices and cards do, also by themselves as time passes (due)
    webhooks                            signed deliveries with retries
    server, doors                       HTTP: the Stripe-shaped part under /v1, test doors and the card page under /_sandbox
"""
