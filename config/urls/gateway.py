from django.urls import path

from apps.api import health, listing
from voice.gateway import client_secrets

urlpatterns = [
    path("health", health.health),
    path("ready", health.ready_gateway),
    path("health/ready", health.ready_gateway),
    path("metrics", health.metrics),
    path("v1/models", listing.model_list),
    path("v1/models/<str:name>", listing.model_detail),
    path("v1/realtime", listing.upgrade_required),
    path("v1/realtime/client_secrets", client_secrets.create),
]
handler404 = "apps.api.listing.not_found"
handler500 = "apps.api.listing.server_error"
