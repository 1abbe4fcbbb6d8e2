from django.apps import AppConfig


class GatewayConfig(AppConfig):
    name = "voice.gateway"
    label = "gateway"
