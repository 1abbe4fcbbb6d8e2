"""The pages that stand for Stripe Elements, 3-D Secure and the hosted invoice: plain HTML, test cards by name, no card number anywhere."""

from __future__ import annotations

from html import escape
from urllib.parse import urlencode, urlsplit

from tools.billing_sandbox.errors import StripeError
from tools.billing_sandbox.resources import payment_intents, setup_intents
from tools.billing_sandbox.resources.payment_methods import method_resolve

PAGES = ("confirm", "authenticate", "invoice")
OFFERED = {
    "pm_card_visa": "Visa 4242: works",
    "pm_card_mastercard": "Mastercard 4444: works",
    "pm_card_authenticationRequired": "Visa 3184: asks for confirmation at every payment",
    "pm_card_authenticationRequiredOnSetup": "Visa 3155: asks for confirmation once, when it is saved",
    "pm_card_chargeDeclined": "Visa 0002: is declined",
    "pm_card_chargeDeclinedInsufficientFunds": "Visa 9995: has insufficient funds",
    "pm_card_chargeCustomerFail": "Visa 0341: can be saved, payments fail",
}
HEADERS = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
           "Referrer-Policy": "no-referrer", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}  # fmt: skip
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>body{{font:1rem/1.5 system-ui,sans-serif;max-width:34rem;margin:3rem auto;padding:0 1rem;color:#1b1b1f;background:#fff}}
.notice{{border:2px dashed #8a4b00;padding:.5rem 1rem}} .error{{color:#a40000}} fieldset{{border:1px solid #777;margin:1rem 0}} label{{display:block;padding:.25rem 0}}
button{{font:inherit;padding:.5rem 1rem;margin-right:.5rem}} td{{padding:.2rem 1rem .2rem 0}}</style>
<main><h1>{title}</h1><p class="notice">This is the billing sandbox, a local stand-in for Stripe. No money moves and no card number is asked for.</p>{body}</main></html>"""


def answer(server, name: str, method: str, given: dict[str, str]):
    try:
        return {"confirm": _confirm, "authenticate": _authenticate, "invoice": _invoice}[name](server, method, given)
    except StripeError as error:
        return _page("Not possible", f'<p class="error">{escape(error.message)}</p>', error.status)


def _page(title: str, body: str, status: int = 200):
    return status, HEADERS, PAGE.format(title=escape(title), body=body).encode()


def _redirect(url: str):
    return 303, HEADERS | {"Location": url}, b""


def _intent(server, secret: str) -> dict:
    """The intent that `secret` opens. Raises NotFound."""
    id = secret.partition("_secret_")[0]
    found = server.store.get(id)
    if found is None or found.get("client_secret") != secret:
        return server.sandbox.get("intent", None, "client_secret")
    return found


def _return_url(given: dict[str, str]) -> str:
    url = given.get("return_url", "")
    if url and urlsplit(url).scheme not in ("http", "https"):
        raise StripeError("Not a valid URL", "return_url", "url_invalid")
    return url


def _hidden(given: dict[str, str]) -> str:
    return "".join(f'<input type="hidden" name="{n}" value="{escape(given.get(n, ""), quote=True)}">' for n in ("client_secret", "return_url"))


def _confirm(server, method: str, given: dict[str, str]):
    """Choose a test card for a setup or payment intent; back to `return_url` as Stripe does, with the outcome in its query."""
    intent, back, problem = _intent(server, given.get("client_secret", "")), _return_url(given), ""
    if method == "POST":
        if given.get("token") not in OFFERED:
            raise StripeError("Choose one of the test cards.", "token")
        try:
            intent = server._kept(lambda: _confirmed(server, intent, given["token"], back))
            if intent["status"] == "requires_action":
                return _redirect("/_sandbox/authenticate?" + urlencode({"client_secret": intent["client_secret"], "return_url": back}))
            return _done(intent, back)
        except StripeError as error:
            problem = f'<p class="error" role="alert">{escape(error.message)}</p>'
    what = f"Pay {intent['amount'] / 100:.2f} {intent['currency'].upper()}" if intent["object"] == "payment_intent" else "Save a card"
    cards = "".join(f'<label><input type="radio" name="token" value="{t}"{" checked" if i == 0 else ""}> {escape(text)}</label>' for i, (t, text) in enumerate(OFFERED.items()))
    form = f'<form method="post" action="/_sandbox/confirm">{_hidden(given)}<fieldset><legend>Test card</legend>{cards}</fieldset><button>{what}</button></form>'
    return _page(what, problem + form)


def _confirmed(server, intent: dict, token: str, back: str) -> dict:
    intent["payment_method"] = method_resolve(server.sandbox, token)["id"]
    if intent["object"] == "setup_intent":
        return setup_intents.setup_confirm_with(server.sandbox, intent, back)
    return payment_intents.confirm(server.sandbox, intent, off_session=False, return_url=back)


def _authenticate(server, method: str, given: dict[str, str]):
    """The card's bank asks its owner."""
    intent = _intent(server, given.get("client_secret", ""))
    back = _return_url(given) or ((intent["next_action"] or {}).get("redirect_to_url") or {}).get("return_url") or ""
    if intent["status"] != "requires_action":
        return _done(intent, back)
    if method == "POST":
        passed = given.get("outcome") == "pass"
        if intent["object"] == "setup_intent":
            intent = server._kept(lambda: setup_intents.setup_confirm_with(server.sandbox, intent, authenticated=passed))
        else:
            intent = server._kept(lambda: payment_intents.authenticate(server.sandbox, intent, passed))
        return _done(intent, back)
    form = f"""<form method="post" action="/_sandbox/authenticate">{_hidden(given | {"return_url": back})}<p>The bank asks: is it you?</p>
<button name="outcome" value="pass">Complete authentication</button><button name="outcome" value="fail">Fail authentication</button></form>"""
    return _page("Confirm with your bank", form)


def _done(intent: dict, back: str):
    status = "succeeded" if intent["status"] == "succeeded" else "failed"
    if not back:
        return _page("Done", f"<p>The {intent['object'].replace('_', ' ')} has {escape(status)}. You can close this page.</p>")
    query = urlencode({intent["object"]: intent["id"], f"{intent['object']}_client_secret": intent["client_secret"], "redirect_status": status})
    return _redirect(f"{back}{'&' if '?' in back else '?'}{query}")


def _invoice(server, method: str, given: dict[str, str]):
    """The hosted invoice; its address cannot be guessed."""
    invoice = server.sandbox.get("invoice", given.get("id", ""))

    def money(cents: int) -> str:
        return f"{cents / 100:.2f} {invoice['currency'].upper()}"

    rows = "".join(f"<tr><td>{escape(line['description'] or '')}</td><td>{money(line['amount'])}</td></tr>" for line in invoice["_lines"])
    body = f"<table>{rows}<tr><td><b>Total</b></td><td><b>{money(invoice['total'])}</b></td></tr><tr><td>Due</td><td>{money(invoice['amount_remaining'])}</td></tr></table>"
    body += f"<p>Status: {escape(invoice['status'])}</p>"
    if invoice["status"] == "open" and invoice["_intent"]:
        secret = server.store.get(invoice["_intent"])["client_secret"]
        body += f'<p><a href="/_sandbox/confirm?{urlencode({"client_secret": secret})}">Pay</a></p>'
    return _page(f"Invoice {invoice['number'] or '(draft)'}", body)
