"""The forms of the portal, one a page. They check shapes; the services check the rest."""

from __future__ import annotations

import json

from django import forms
from django.conf import settings

from apps.apikeys.services import DEFAULT_SCOPES, LIMIT_NAMES, SCOPES
from apps.common.fallbacks import MODEL_CHARS
from apps.onboarding.forms import template_choices
from apps.teams.models import Role
from apps.tenants.models import Tenant
from apps.tenants.services import RESUME_S


class Lines(forms.CharField):
    """One value a line."""

    def __init__(self, **kwargs):
        super().__init__(required=False, widget=forms.Textarea(attrs={"rows": 3}), **kwargs)

    def to_python(self, value):
        return [line.strip().lower() for line in (value or "").splitlines() if line.strip()]

    def prepare_value(self, value):
        return "\n".join(value) if isinstance(value, list) else value


class JsonText(forms.CharField):
    """JSON of one kind in a text field."""

    def __init__(self, kind: type, **kwargs):
        self.kind = kind
        super().__init__(required=False, widget=forms.Textarea(attrs={"rows": 6, "spellcheck": "false", "class": "code"}), **kwargs)

    def to_python(self, value):
        if not (value or "").strip():
            return self.kind()
        try:
            parsed = json.loads(value)
        except ValueError as error:
            raise forms.ValidationError(f"This is not JSON: {error}") from error
        if not isinstance(parsed, self.kind):
            raise forms.ValidationError(f"Expected a JSON {'object' if self.kind is dict else 'list'}.")
        return parsed

    def prepare_value(self, value):
        return json.dumps(value, indent=1) if isinstance(value, (dict, list)) else value


class NewWorkspace(forms.Form):
    name = forms.CharField(label="Workspace name", max_length=80)
    template = forms.ChoiceField(label="First agent", choices=template_choices, initial="assistant", widget=forms.RadioSelect)


SCOPE_WORDS = {
    "realtime:connect": "open sessions and mint client secrets", "audio:write": "send audio", "agents:write": "change and publish agents",
    "usage:read": "read usage, sessions and transcripts", "tenant:admin": "everything but closing the workspace and paying",
}  # fmt: skip


class NewKey(forms.Form):
    name = forms.CharField(label="Name", max_length=80)
    scopes = forms.MultipleChoiceField(label="It may", choices=[(s, f"{SCOPE_WORDS[s]} ({s})") for s in SCOPES], initial=list(DEFAULT_SCOPES),
                                       widget=forms.CheckboxSelectMultiple)  # fmt: skip
    days = forms.IntegerField(label="Expires after days", help_text="Empty: never.", min_value=1, max_value=3650, required=False)
    allowed_origins = Lines(label="Origins of browsers that may use it",
                            help_text="One a line, such as https://app.example.com. Empty: those of the workspace.")  # fmt: skip

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for name in LIMIT_NAMES:
            label = name.replace("_", " ").capitalize()
            self.fields[name] = forms.IntegerField(label=label, help_text="Empty: the workspace's.", min_value=0, required=False)

    def limit_fields(self) -> list:
        return [self[n] for n in LIMIT_NAMES]

    def limits(self) -> dict[str, int]:
        return {n: v for n in LIMIT_NAMES if (v := self.cleaned_data.get(n)) is not None}


STAGES = {"stt": "Speech recognition", "llm": "Language model", "tts": "Voice"}


def add_fallbacks(form: forms.Form, otherwise: str) -> None:
    """Two fields a stage: the engine that takes over when the first fails, and its model. `otherwise`: what none means."""
    for stage, label in STAGES.items():
        engines = [("", otherwise), *((n, n) for n in settings.VOICE_ENGINE_NAMES[stage])]
        form.fields[f"{stage}_fallback"] = forms.ChoiceField(label=f"{label}: takes over", choices=engines, required=False)
        form.fields[f"{stage}_fallback_model"] = forms.CharField(label=f"{label}: its model", required=False, max_length=MODEL_CHARS)


def fallback_names() -> list[str]:
    return [name for stage in STAGES for name in (f"{stage}_fallback", f"{stage}_fallback_model")]


def fallback_initial(value: dict) -> dict[str, str]:
    return {name: other.get(part, "") for stage, other in value.items() for name, part in ((f"{stage}_fallback", "engine"), (f"{stage}_fallback_model", "model"))}


def chosen_fallbacks(data: dict) -> dict[str, dict[str, str]]:
    """Of cleaned data, as apps/common/fallbacks.py has it."""
    return {stage: {"engine": data[f"{stage}_fallback"], "model": data[f"{stage}_fallback_model"]} for stage in STAGES if data[f"{stage}_fallback"]}


class NewAgent(forms.Form):
    name = forms.CharField(label="Name", max_length=80)
    template = forms.ChoiceField(label="Begin with", choices=template_choices, initial="assistant", widget=forms.RadioSelect)


class Invite(forms.Form):
    email = forms.EmailField(label="E-mail", widget=forms.EmailInput(attrs={"autocomplete": "off"}))
    role = forms.ChoiceField(label="Role", choices=Role.choices, initial=Role.DEVELOPER)


class WorkspaceSettings(forms.Form):
    name = forms.CharField(label="Name", max_length=120)
    email = forms.EmailField(label="Contact e-mail", required=False)
    tool_hosts = Lines(label="Hosts that agents' HTTPS tools may call", help_text="One a line, such as api.example.com. Empty: none.")
    allowed_origins = Lines(label="Origins of browsers that may connect",
                            help_text="One a line, such as https://app.example.com. Empty: all of the installation.")  # fmt: skip
    resume_seconds = forms.IntegerField(label="A lost connection may come back for, seconds", required=False, min_value=RESUME_S[0], max_value=RESUME_S[1],
                                        help_text="10 to 3600; no longer than your limits say. Empty: the installation's.")  # fmt: skip

    def __init__(self, data=None, *, tenant: Tenant):
        names = ("name", "email", "tool_hosts", "allowed_origins", "resume_seconds")
        super().__init__(data, initial={n: getattr(tenant, n) for n in names} | fallback_initial(tenant.fallbacks))
        add_fallbacks(self, "none, or the installation's")

    def values(self) -> dict:
        """What tenants/services.py: tenant_update takes."""
        names = set(fallback_names())
        return {n: v for n, v in self.cleaned_data.items() if n not in names} | {"fallbacks": chosen_fallbacks(self.cleaned_data)}


class Tax(forms.Form):
    name = forms.CharField(label="Name on invoices", max_length=120, required=False)
    country = forms.CharField(label="Country (two letters)", max_length=2, required=False)
    postal_code = forms.CharField(label="Postal code", max_length=20, required=False)
    tax_id_type = forms.ChoiceField(label="Kind of tax id", required=False, choices=[("", "none"), ("eu_vat", "EU VAT"), ("gb_vat", "UK VAT"), ("us_ein", "US EIN"),
                                    ("ch_vat", "Swiss VAT"), ("ca_bn", "Canadian BN"), ("au_abn", "Australian ABN")])  # fmt: skip
    tax_id = forms.CharField(label="Tax id", max_length=40, required=False)
    exempt = forms.ChoiceField(label="Tax", required=False, choices=[("none", "charged"), ("exempt", "exempt"), ("reverse", "reverse charge")])


class Numbers(forms.CharField):
    """Whole numbers with commas between them."""

    def to_python(self, value):
        try:
            return [int(part) for part in (value or "").replace("%", "").split(",") if part.strip()]
        except ValueError as error:
            raise forms.ValidationError("Whole numbers with commas between them, as 50, 80, 100.") from error

    def prepare_value(self, value):
        return ", ".join(map(str, value)) if isinstance(value, list) else value


class SpendCap(forms.Form):
    cap = forms.DecimalField(label="Spend cap for each period", required=False, min_value=0, max_digits=12, decimal_places=2,
                             help_text="In the currency of your account. At the cap live sessions end and new ones are refused. Empty: no cap.")  # fmt: skip
    alerts = Numbers(label="Mail at", required=False, max_length=60, help_text="Per cent of the cap, e.g. 50, 80, 100. Owners and billing members get it.")

    @property
    def cap_micros(self) -> int | None:
        cap = self.cleaned_data["cap"]
        return None if cap is None else int(cap * 10**6)
