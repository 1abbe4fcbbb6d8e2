from __future__ import annotations

from django import forms
from django.utils.html import format_html
from django.utils.safestring import mark_safe

from apps.agents.services import TEMPLATES


def template_choices() -> list[tuple[str, str]]:
    """The templates of agents as cards to choose from."""
    return [(k, format_html("<b>{}</b> {}", t["title"], t["about"])) for k, t in TEMPLATES.items()]


class SignUp(forms.Form):
    """What the sign-up asks beside e-mail and password. An invited person joins a workspace instead of naming one."""

    workspace = forms.CharField(label="Workspace name", max_length=80, required=False,
                                help_text="Your company or project. Leave it empty to join one you are invited to.",
                                widget=forms.TextInput(attrs={"autocomplete": "organization"}))  # fmt: skip
    template = forms.ChoiceField(label="First agent", choices=template_choices, initial="assistant", required=False, widget=forms.RadioSelect)
    accept_terms = forms.BooleanField(label=mark_safe('I accept the <a href="/terms">terms of use</a>'),
                                      error_messages={"required": "The terms must be accepted."})  # fmt: skip
    field_order = ["email", "password1", "workspace", "template", "accept_terms"]

    def clean_workspace(self) -> str:
        name = self.cleaned_data["workspace"].strip()
        if "\0" in name:
            raise forms.ValidationError("The name holds a character that cannot be kept.")
        return name

    def signup(self, request, user) -> None:
        """allauth calls it in the transaction that made the user; the workspace is asked for by the portal's view."""
        request.session["workspace"] = self.cleaned_data["workspace"]
        request.session["template"] = self.cleaned_data["template"] or "assistant"
