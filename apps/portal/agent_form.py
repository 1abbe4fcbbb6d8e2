"""The form of an agent: fields where people expect fields, JSON only for tools."""

from __future__ import annotations

from typing import Any

from django import forms
from django.conf import settings

from apps.agents.models import AgentVersion
from apps.portal.forms import STAGES, JsonText, add_fallbacks, chosen_fallbacks, fallback_initial, fallback_names

TURN_MODES = (("", "the installation's usual way"), ("server_vad", "when the caller pauses"), ("semantic_vad", "when the sentence sounds finished"))
TURN_NUMBERS = {  # name -> (label, help, type)
    "silence_duration_ms": ("Pause in ms", "How long a silence ends the turn: 100 to 5000.", forms.IntegerField),
    "threshold": ("Sensitivity", "0 to 1; higher needs clearer speech.", forms.FloatField),
    "prefix_padding_ms": ("Sound kept before speech, ms", "0 to 5000.", forms.IntegerField),
    "idle_timeout_ms": ("Speak up after silence, ms", "5000 to 30000; empty: wait for the caller.", forms.IntegerField),
}
OF_MODE = {"server_vad": tuple(TURN_NUMBERS), "semantic_vad": ("eagerness",), "": ()}
LIMITS = {"max_session_seconds": "Longest session in seconds", "max_output_tokens": "Longest answer in tokens"}
OWN = {"preemptive": "Begin the answer at a short pause, before it is certain that the caller has finished",
       "backchannels": "“Mm-hmm” and “okay” do not interrupt"}  # fmt: skip
SWITCHES = {"interrupt_response": "The caller may interrupt", "create_response": "Answer by itself when a turn ends", **OWN}
TOOL_EXAMPLE = """[
 {"name": "book_table",
  "description": "Book a table.",
  "parameters": {"type": "object", "properties": {"people": {"type": "string"}, "day": {"type": "string"}}, "required": ["people", "day"]},
  "url": "https://api.example.com/book"}
]"""


class EditAgent(forms.Form):
    instructions = forms.CharField(widget=forms.Textarea(attrs={"rows": 8}), required=False, strip=False)
    greeting = forms.CharField(help_text="Said first. Empty: it waits for the caller.", required=False, max_length=1000)
    voice = forms.CharField(max_length=40, widget=forms.TextInput(attrs={"list": "voices", "autocomplete": "off"}))
    language = forms.CharField(max_length=16, widget=forms.TextInput(attrs={"list": "languages", "autocomplete": "off"}))
    turn_mode = forms.ChoiceField(label="It answers", choices=TURN_MODES, required=False)
    eagerness = forms.ChoiceField(choices=[(c, c) for c in ("auto", "low", "medium", "high")], required=False,
                                  help_text="For the finished sentence: how soon it answers.")  # fmt: skip
    tools = JsonText(list, label="Functions (JSON list)",
                     help_text='Your program runs them, or, with a "url", we call them over HTTPS on hosts from the settings.')  # fmt: skip

    def __init__(self, data=None, *, version: AgentVersion):
        self.turn = dict(version.turn_detection or {})
        initial = {n: getattr(version, n) for n in ("instructions", "greeting", "voice", "language", "tools")}
        initial |= {"turn_mode": self.turn.get("type", ""), **{n: self.turn.get(n) for n in ("eagerness", *TURN_NUMBERS)}}
        initial |= {n: self.turn.get(n, True) for n in SWITCHES} | dict(version.limits or {})
        initial |= {f"{s}_{part}": getattr(version, f"{s}_{part}") for s in STAGES for part in ("engine", "model")}
        super().__init__(data, initial=initial | fallback_initial(version.fallbacks or {}))
        for name, (label, help_text, kind) in TURN_NUMBERS.items():
            self.fields[name] = kind(label=label, help_text=help_text, required=False)
        for name, label in SWITCHES.items():
            self.fields[name] = forms.BooleanField(label=label, required=False)
        for name, label in LIMITS.items():
            self.fields[name] = forms.IntegerField(label=label, help_text="Empty: the installation's.", required=False)
        for stage, label in STAGES.items():
            engines = [("", "the installation's"), *((n, n) for n in settings.VOICE_ENGINE_NAMES[stage])]
            self.fields[f"{stage}_engine"] = forms.ChoiceField(label=label, choices=engines, required=False)
            self.fields[f"{stage}_model"] = forms.CharField(label=f"{label}: model", required=False, max_length=120)
        add_fallbacks(self, "the workspace's")

    def turn_fields(self) -> list:
        return [self[n] for n in ("turn_mode", "eagerness", *TURN_NUMBERS, *SWITCHES)]

    def limit_fields(self) -> list:
        return [self[n] for n in LIMITS]

    def engine_fields(self) -> list:
        return [self[f"{s}_{part}"] for s in STAGES for part in ("engine", "model")]

    def fallback_fields(self) -> list:
        return [self[n] for n in fallback_names()]

    def engines_chosen(self) -> bool:
        return any(field.value() for field in (*self.engine_fields(), *self.fallback_fields()))

    def version_fields(self) -> dict[str, Any]:
        """What apps/agents/services.py: draft_save takes."""
        data = self.cleaned_data
        plain = {n: data[n] for n in ("instructions", "greeting", "voice", "language", "tools")}
        engines = {field.name: data[field.name] for field in self.engine_fields()}
        limits = {n: data[n] for n in LIMITS if data[n] is not None}
        return {**plain, **engines, "limits": limits, "fallbacks": chosen_fallbacks(data), "turn_detection": self._turn_detection(data)}

    def _turn_detection(self, data: dict[str, Any]) -> dict[str, Any]:
        """Only what differs from the defaults; keys that the form does not show stay as they were."""
        mode = data["turn_mode"]
        if not mode:
            return {n: False for n in OWN if not data[n]}
        known = {"type", "eagerness", *TURN_NUMBERS, *SWITCHES}
        kept = {k: v for k, v in self.turn.items() if k not in known} if self.turn.get("type") == mode else {}
        chosen = {n: data[n] for n in OF_MODE[mode] if data[n] not in (None, "")}
        return {**kept, "type": mode, **chosen, **{n: False for n in SWITCHES if not data[n]}}
