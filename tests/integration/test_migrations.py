"""The models and their migrations say the same, dj-stripe's (one migration of ours) too."""

from __future__ import annotations

from django.core.management import call_command

from apps.tenants.context import bound_public


def test_nothing_is_left_to_migrate(database):
    with bound_public():
        call_command("makemigrations", check=True, dry_run=True, verbosity=0)
