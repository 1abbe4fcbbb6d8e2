from django.contrib import admin
from django.urls import path

from apps.api import health
from apps.portal import views

urlpatterns = [
    path("health", health.health),
    path("ready", health.ready_portal),
    path("health/ready", health.ready_portal),
    path("metrics", health.metrics),
    path("", views.home, name="home"),
    path("sign-in", views.sign_in, name="sign-in"),
    path("sign-out", views.sign_out, name="sign-out"),
    path("t/<slug:slug>/", views.overview, name="overview"),
    path("t/<slug:slug>/keys", views.keys, name="keys"),
    path("t/<slug:slug>/keys/<str:key_id>/revoke", views.key_revoke, name="key-revoke"),
    path("t/<slug:slug>/sessions/<str:session_id>", views.session_detail, name="session"),
    path("admin/", admin.site.urls),
]
