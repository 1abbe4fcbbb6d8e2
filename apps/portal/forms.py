"""The forms of the portal, one a page. They check shapes; the services check the rest."""

from __future__ import annotations

import json

from django import forms

from apps.agents.services import TEMPLATES
from apps.apikeys.services import DEFAULT_SCOPES, LIMIT_NAMES, SCOPES
from apps.teams.models import Role


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
    template = forms.ChoiceField(label="First agent", choices=[(k, f"{t['title']}: {t['about']}") for k, t in TEMPLATES.items()])


class NewKey(forms.Form):
    name = forms.CharField(label="Name", max_length=80)
    scopes = forms.MultipleChoiceField(label="It may", choices=[(s, s) for s in SCOPES], initial=list(DEFAULT_SCOPES), widget=forms.CheckboxSelectMultiple)
    days = forms.IntegerField(label="Expires after days (empty: never)", min_value=1, max_value=3650, required=False)
    allowed_origins = Lines(label="Origins of browsers that may use it, one a line (empty: those of the workspace)")

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for name in LIMIT_NAMES:
            self.fields[name] = forms.IntegerField(label=f"Limit: {name.replace('_', ' ')} (empty: the workspace's)", min_value=0, required=False)

    def limits(self) -> dict[str, int]:
        return {n: v for n in LIMIT_NAMES if (v := self.cleaned_data.get(n)) is not None}


class NewAgent(forms.Form):
    name = forms.CharField(label="Name", max_length=80)
    template = forms.ChoiceField(label="Begin with", choices=[(k, f"{t['title']}: {t['about']}") for k, t in TEMPLATES.items()])


class EditAgent(forms.Form):
    instructions = forms.CharField(label="Instructions", widget=forms.Textarea(attrs={"rows": 8}), required=False, strip=False)
    greeting = forms.CharField(label="Greeting, said first (empty: it waits for the caller)", required=False, max_length=1000)
    voice = forms.CharField(label="Voice", max_length=40)
    language = forms.CharField(label="Language", max_length=16)
    turn_detection = JsonText(dict, label="Turn detection (JSON object; empty: server_vad with its defaults)")
    tools = JsonText(list, label="Tools (JSON list of functions; with \"url\" they are called over HTTPS on hosts from the settings)")
    limits = JsonText(dict, label="Limits (JSON object: max_session_seconds, max_output_tokens)")
    stt_engine = forms.CharField(label="Speech recognition engine (empty: the installation's)", required=False, max_length=40)
    stt_model = forms.CharField(label="Speech recognition model", required=False, max_length=120)
    llm_engine = forms.CharField(label="Language model engine (empty: the installation's)", required=False, max_length=40)
    llm_model = forms.CharField(label="Language model", required=False, max_length=120)
    tts_engine = forms.CharField(label="Speech synthesis engine (empty: the installation's)", required=False, max_length=40)
    tts_model = forms.CharField(label="Speech synthesis model", required=False, max_length=120)


class Invite(forms.Form):
    email = forms.EmailField(label="E-mail", widget=forms.EmailInput(attrs={"autocomplete": "off"}))
    role = forms.ChoiceField(label="Role", choices=Role.choices, initial=Role.DEVELOPER)


class WorkspaceSettings(forms.Form):
    name = forms.CharField(label="Name", max_length=120)
    email = forms.EmailField(label="Contact e-mail", required=False)
    tool_hosts = Lines(label="Hosts that agents' HTTPS tools may call, one a line")
    allowed_origins = Lines(label="Origins of browsers that may connect, one a line (empty: all of the installation)")
