from __future__ import annotations

from django import forms


class SignUp(forms.Form):
    """What the sign-up asks beside e-mail and password. An invited person joins a workspace instead of naming one."""

    workspace = forms.CharField(label="Workspace name", max_length=80, required=False, widget=forms.TextInput(attrs={"autocomplete": "organization"}))
    accept_terms = forms.BooleanField(label="I accept the terms of use", error_messages={"required": "The terms must be accepted."})
    field_order = ["workspace", "email", "password1", "accept_terms"]

    def clean_workspace(self) -> str:
        name = self.cleaned_data["workspace"].strip()
        if "\0" in name:
            raise forms.ValidationError("The name holds a character that cannot be kept.")
        return name

    def signup(self, request, user) -> None:
        """allauth calls it in the transaction that made the user; the workspace is asked for by the portal's view."""
        request.session["workspace"] = self.cleaned_data["workspace"]
