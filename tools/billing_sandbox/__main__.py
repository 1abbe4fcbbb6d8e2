"""`python -m tools.billing_sandbox --port 12111 --data FOLDER --secret-key sk_test_… [--webhook-url URL --webhook-secret whsec_…]`"""

from __future__ import annotations

import argparse
import logging
import os
import re
from pathlib import Path

import uvicorn

from tools.billing_sandbox.resources.events import endpoint_make
from tools.billing_sandbox.sandbox import Sandbox
from tools.billing_sandbox.server import Server
from tools.billing_sandbox.store import Store

MIN_SECRET = 24  # characters after sk_test_


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.billing_sandbox", description="A local stand-in for Stripe's API. No money moves.")
    parser.add_argument("--port", type=int, default=12111)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; never one that strangers reach")
    parser.add_argument("--base-url", default="", help="address of its pages as browsers reach them")
    parser.add_argument("--data", type=Path, required=True, help="folder of its database")
    parser.add_argument("--secret-key", default=os.environ.get("BILLING_SANDBOX_SECRET_KEY", ""), help="what clients authenticate with (or BILLING_SANDBOX_SECRET_KEY)")
    parser.add_argument("--webhook-url", help="where events are sent; more by POST /v1/webhook_endpoints")
    parser.add_argument("--webhook-secret", default=os.environ.get("BILLING_SANDBOX_WEBHOOK_SECRET", ""), help="signs them (or BILLING_SANDBOX_WEBHOOK_SECRET)")
    options = parser.parse_args(arguments)
    if not re.fullmatch(rf"sk_test_[A-Za-z0-9]{{{MIN_SECRET},99}}", options.secret_key):  # what dj-stripe takes for a key
        parser.error(f"--secret-key: expected sk_test_ and {MIN_SECRET} to 99 letters and digits")
    if options.webhook_url and not options.webhook_secret.startswith("whsec_"):
        parser.error("--webhook-secret: expected whsec_…, since --webhook-url is given")
    return options


def configured_endpoint(sandbox: Sandbox, url: str, secret: str) -> None:
    """The endpoint of the command line: made once, brought up to date at later starts."""
    known = next((e for e in sandbox.find("webhook_endpoint") if e.get("_configured")), None)
    endpoint = known or endpoint_make(sandbox, url, ["*"], description="from the command line")
    sandbox.save(endpoint | {"url": url, "_secret": secret, "_configured": True, "status": "enabled"})


def main() -> None:
    options = parse()
    logging.basicConfig(level=os.environ.get("LOG_LEVEL", "WARNING"))
    options.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    sandbox = Sandbox(Store(options.data / "sandbox.sqlite"), options.base_url or f"http://localhost:{options.port}")
    if options.webhook_url:
        configured_endpoint(sandbox, options.webhook_url, options.webhook_secret)
    uvicorn.run(Server(sandbox, options.secret_key), host=options.host, port=options.port, log_level="warning", access_log=False, ws="none")


if __name__ == "__main__":
    main()
