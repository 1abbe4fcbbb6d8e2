#!/usr/bin/env python
"""Django's command line. Commands bind the public schema; what works for a tenant binds it."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.local")
    if sys.argv[1:2] == ["up"]:  # needs no Django: it starts the servers Django needs
        from apps.common.launch.up import main as up

        sys.exit(up(sys.argv[2:]))
    from django.core.management import execute_from_command_line

    from apps.tenants.context import bound_public

    with bound_public():
        execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
