from __future__ import annotations

from contextlib import closing

from django.core.management.base import BaseCommand, CommandError

from apps.tenants.context import bound, bound_public
from apps.tenants.models import Tenant
from apps.usage import journal, rollups
from apps.usage.ledger import account_ready


class Command(BaseCommand):
    help = ("The ledger's sums: `usage verify [TENANT …]` compares them with the ledger, `usage rebuild [TENANT …]` makes them anew (all workspaces, or "
            "those named); `usage replay` writes what killed gateways left in the journal, without waiting for the worker.")  # fmt: skip

    def add_arguments(self, parser):
        actions = parser.add_subparsers(dest="action", required=True)
        for name in ("verify", "rebuild"):
            actions.add_parser(name).add_argument("tenants", nargs="*", help="slugs")
        actions.add_parser("replay")

    def handle(self, *args, **options):
        if options["action"] == "replay":
            with closing(journal.connection()) as redis:
                self.stdout.write(f"{journal.replay(redis)} turns and session ends written, {redis.hlen(journal.REFUSED)} refused by the database")
            return
        with bound_public():
            tenants = [t for t in Tenant.objects.real() if not options["tenants"] or t.slug in options["tenants"]]
        if missing := set(options["tenants"]) - {t.slug for t in tenants}:
            raise CommandError(f"no workspace {', '.join(sorted(missing))}")
        wrong = 0
        for tenant in tenants:
            with bound(tenant):
                account_ready()
                if options["action"] == "rebuild":
                    self.stdout.write(f"{tenant.slug:30} {rollups.rebuild():10} entries")
                found = rollups.differences()
            for row in found:
                self.stdout.write(f"{tenant.slug:30} {row}")
            wrong += bool(found)
        if wrong:
            raise CommandError(f"the sums of {wrong} workspaces differ from their ledger: `manage.py usage rebuild`")
        self.stdout.write(f"{len(tenants)} workspaces: sums and ledger agree")
