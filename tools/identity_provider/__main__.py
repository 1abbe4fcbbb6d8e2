"""`python -m tools.identity_provider FOLDER [--port 18080] [--redirect URL …]`: serves until it is ended; clients and users come from deploy/keycloak/realm.json."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

REALM_FILE = Path(__file__).resolve().parents[2] / "deploy" / "keycloak" / "realm.json"


def fill(redirects: list[str]) -> None:
    """The realm's client, groups and users."""
    from django.contrib.auth.models import Group, User
    from oauth2_provider.models import Application

    realm = json.loads(REALM_FILE.read_text())
    for client in realm["clients"]:
        Application.objects.update_or_create(client_id=client["clientId"], defaults={
            "name": client["clientId"], "client_secret": client["secret"], "client_type": "confidential", "authorization_grant_type": "authorization-code",
            "redirect_uris": " ".join([*client["redirectUris"], *redirects]), "algorithm": "RS256", "skip_authorization": True,
            "post_logout_redirect_uris": " ".join([client["attributes"]["post.logout.redirect.uris"], *(r.split("/oidc/")[0] + "/" for r in redirects)]),
        })  # fmt: skip
    for entry in realm["users"]:
        if "serviceAccountClientId" in entry:
            continue
        user, _ = User.objects.update_or_create(username=entry["username"], defaults={
            "email": entry["email"], "first_name": entry["firstName"], "is_active": entry["enabled"], "last_name": "" if entry["emailVerified"] else "unverified",
        })  # fmt: skip
        user.set_password(entry["credentials"][0]["value"])
        user.save()
        user.groups.set([Group.objects.get_or_create(name=name)[0] for name in entry["groups"]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=18080)
    parser.add_argument("--redirect", action="append", default=[])
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    os.environ |= {"IDP_FOLDER": str(options.folder.resolve()), "IDP_PORT": str(options.port), "DJANGO_SETTINGS_MODULE": "tools.identity_provider.settings"}
    import django

    django.setup()
    from django.core.management import call_command
    from django.core.wsgi import get_wsgi_application

    call_command("migrate", verbosity=0)
    fill(options.redirect)
    from socketserver import ThreadingMixIn
    from wsgiref.simple_server import WSGIServer, make_server

    class Server(ThreadingMixIn, WSGIServer):
        daemon_threads = True

    make_server("127.0.0.1", options.port, get_wsgi_application(), Server).serve_forever()


if __name__ == "__main__":
    main()
