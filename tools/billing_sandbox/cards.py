"""Stripe's test cards by their tokens (docs.stripe.com/testing): what each does when saved and when charged. No card number is ever taken."""

from __future__ import annotations

from dataclasses import dataclass

from tools.billing_sandbox.errors import CardError


@dataclass(frozen=True)
class Card:
    last4: str
    brand: str = "visa"
    on_save: str = ""  # decline code when it is attached or set up
    on_charge: str = ""  # decline code when it is charged
    authentication: str = ""  # "setup": until it was set up with the customer present; "always": at each payment


DECLINES = {  # decline code -> (error code, message)
    "generic_decline": ("card_declined", "Your card was declined."),
    "insufficient_funds": ("card_declined", "Your card has insufficient funds."),
    "lost_card": ("card_declined", "Your card was declined."),
    "stolen_card": ("card_declined", "Your card was declined."),
    "fraudulent": ("card_declined", "Your card was declined."),
    "expired_card": ("expired_card", "Your card has expired."),
    "incorrect_cvc": ("incorrect_cvc", "Your card's security code is incorrect."),
    "processing_error": ("processing_error", "An error occurred while processing your card. Try again in a little bit."),
    "authentication_required": ("authentication_required", "Your card was declined. This transaction requires authentication."),
}


def _declined(last4: str, code: str) -> Card:
    return Card(last4, on_save=code, on_charge=code)


CARDS = {
    "pm_card_visa": Card("4242"),
    "pm_card_visa_debit": Card("5556"),
    "pm_card_mastercard": Card("4444", "mastercard"),
    "pm_card_amex": Card("8431", "amex"),
    "pm_card_chargeDeclined": _declined("0002", "generic_decline"),
    "pm_card_chargeDeclinedInsufficientFunds": _declined("9995", "insufficient_funds"),
    "pm_card_chargeDeclinedLostCard": _declined("9987", "lost_card"),
    "pm_card_chargeDeclinedStolenCard": _declined("9979", "stolen_card"),
    "pm_card_chargeDeclinedFraudulent": _declined("0019", "fraudulent"),
    "pm_card_chargeDeclinedExpiredCard": _declined("0069", "expired_card"),
    "pm_card_chargeDeclinedIncorrectCvc": _declined("0127", "incorrect_cvc"),
    "pm_card_chargeDeclinedProcessingError": _declined("0119", "processing_error"),
    "pm_card_chargeCustomerFail": Card("0341", on_charge="generic_decline"),
    "pm_card_authenticationRequired": Card("3184", authentication="always"),
    "pm_card_authenticationRequiredOnSetup": Card("3155", authentication="setup"),
    "pm_card_authenticationRequiredChargeDeclinedInsufficientFunds": Card("8260", on_charge="insufficient_funds", authentication="always"),
}
CARDS |= {name.replace("pm_card_", "pm_card_visa_"): card for name, card in list(CARDS.items()) if "charge" in name}
CARDS |= {name.replace("pm_card_", "tok_"): card for name, card in list(CARDS.items())}


def decline(code: str, **more) -> CardError:
    error_code, message = DECLINES[code]
    return CardError(message, None, error_code, decline_code=code, **more)
