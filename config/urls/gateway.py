from django.urls import path

from apps.api import health, listing
from voice.gateway import client_secrets
from voice.gateway.rest import chat, later, speech, transcriptions

urlpatterns = [
    path("health", health.health),
    path("ready", health.ready_gateway),
    path("health/ready", health.ready_gateway),
    path("metrics", health.metrics),
    path("v1/models", listing.model_list),
    path("v1/models/<str:name>", listing.model_detail),
    path("v1/realtime", later.realtime),
    path("v1/realtime/client_secrets", client_secrets.create),
    path("v1/realtime/sessions", client_secrets.beta_session),
    path("v1/realtime/transcription_sessions", client_secrets.beta_transcription_session),
    path("v1/realtime/calls", later.calls),
    path("v1/realtime/calls/<str:call_id>/<str:verb>", later.calls),
    path("v1/realtime/translations", later.translations),
    path("v1/realtime/translations/client_secrets", later.translations),
    path("v1/audio/speech", speech.create),
    path("v1/audio/transcriptions", transcriptions.transcribe),
    path("v1/audio/translations", transcriptions.translate),
    path("v1/chat/completions", chat.complete),
]
handler404 = "apps.api.listing.not_found"
handler500 = "apps.api.listing.server_error"
