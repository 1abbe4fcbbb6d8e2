"""Responses that the client asks for and stops, and what each is made with: the session's settings with what the event overrides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voice.core import events
from voice.core.conversation import Entry
from voice.core.errors import ProtocolError
from voice.core.params import ResponseParams
from voice.core.response import Response
from voice.core.setters import apply_patch
from voice.core.settings import flat_to_ga
from voice.core.waterfall import Waterfall

if TYPE_CHECKING:
    from voice.core.session import Session

_OVERRIDES = ("instructions", "output_modalities", "audio", "tools", "tool_choice", "parallel_tool_calls", "max_output_tokens", "reasoning")


class Answers:
    def __init__(self, session: Session):
        self.session, self.context = session, session.context

    def create(self, event: dict[str, Any]) -> None:
        session, context = self.session, self.context
        if context.settings.type == "transcription":
            raise ProtocolError("invalid_value", "A transcription session creates no responses.", param="type")
        params = self._params(event.get("response") or {})
        if not params.out_of_band and session.active:
            raise ProtocolError("conversation_already_has_active_response",
                                f"Conversation already has an active response in progress: {session.active.id}. Wait until the response is "
                                "finished before creating a new one.")  # fmt: skip
        if not context.requests.remaining(context.now):
            raise ProtocolError("rate_limit_exceeded", f"More than {context.config.responses_per_minute} responses in a minute.",
                                type="rate_limit_error")  # fmt: skip
        session.floor.unanswered = None if not params.out_of_band else session.floor.unanswered
        waiting = set(session.turns.pending) if params.input is None else set()
        session.begin(Response(context, params, Waterfall(context.now)), waiting)

    def cancel(self, event: dict[str, Any]) -> None:
        session, wanted = self.session, event.get("response_id")
        response = session.find_response(wanted) if wanted else session.active
        if response is None:
            which = f"response '{wanted[:80]}' is not active" if wanted else "no active response found"
            raise ProtocolError("response_cancel_not_active", f"Cancellation failed: {which}")
        if response is session.active:
            session.floor.overlap = None
        response.cancel("client_cancelled")
        session.after()

    def clear_output(self, event: dict[str, Any]) -> None:
        session = self.session
        if response := session.active:
            response.cancel("client_cancelled")
            self.context.send("output_audio_buffer.cleared", response_id=response.id)
            session.after()

    def own_params(self) -> ResponseParams:
        """For an answer nobody asked for by event: a tool_choice whose tool is gone counts as auto."""
        try:
            return self._params({})
        except ProtocolError:
            return self._params({"tool_choice": "auto"})

    def _params(self, raw: dict[str, Any]) -> ResponseParams:
        context = self.context
        values = {**context.settings.values, "audio": {k: dict(v) for k, v in context.settings.values["audio"].items()}}
        patch = {k: v for k, v in flat_to_ga(raw).items() if k in _OVERRIDES and v is not None}
        if isinstance(raw.get("prompt"), dict):
            apply_patch(values, context.settings.prompt_patch(raw["prompt"], "response"), context.config, "response")
        apply_patch(values, patch, context.config, "response")
        names = {t["name"] for t in values["tools"]}
        server = {name: t for name, t in context.settings.server_tools.items() if name not in names}
        names |= set(server)
        choice = values["tool_choice"]
        if isinstance(choice, dict) and choice["name"] not in names:
            raise ProtocolError("invalid_value", f"tool_choice names '{choice['name'][:64]}', which is not among the tools.",
                                param="response.tool_choice")  # fmt: skip
        if choice == "required" and not names:
            raise ProtocolError("invalid_value", "tool_choice 'required' needs at least one tool.", param="response.tool_choice")
        conversation = raw.get("conversation", "auto")
        if conversation not in ("auto", "none", None, context.conversation_id):
            raise ProtocolError("invalid_value", "response.conversation: 'auto' or 'none'.", param="response.conversation")
        output = values["audio"]["output"]
        return ResponseParams(
            values["instructions"], values["output_modalities"][0], output["voice"], output["speed"],
            [*values["tools"], *(t["tool"] for t in server.values())], choice,
            values["parallel_tool_calls"], values["max_output_tokens"], self._metadata(raw.get("metadata")), conversation == "none",
            self._input(raw["input"]) if raw.get("input") is not None else None, output["format"]["type"], values["truncation"],
            (values["reasoning"] or {}).get("effort", ""), {name: t["url"] for name, t in server.items()},
        )  # fmt: skip

    @staticmethod
    def _metadata(value: Any) -> dict[str, str] | None:
        if value is None:
            return None
        if len(events.expect(value, dict, "response.metadata")) > 16 or any(not isinstance(v, str) or len(v) > 512 for v in value.values()):
            raise ProtocolError("invalid_value", "response.metadata: at most 16 strings of 512 characters.", param="response.metadata")
        return value

    def _input(self, value: Any) -> list[Entry]:
        conversation, entries = self.context.conversation, []
        for i, raw in enumerate(events.expect(value, list, "response.input")[:1000]):
            events.expect(raw, dict, f"response.input[{i}]")
            if raw.get("type") == "item_reference":
                entries.append(conversation.find(events.expect(raw.get("id"), str, f"response.input[{i}].id"), "retrieve"))
            else:
                entries.append(Entry(conversation.build(raw, self.context.ids("item"), check_calls=False)))
        return entries
