from __future__ import annotations

import json
import sys

from django.core.management.base import BaseCommand, CommandError

from apps.onboarding.services import demo_ensure
from apps.tenants.bootstrap import one_at_a_time, prepare
from apps.tenants.services import MigrationFailed


class Command(BaseCommand):
    help = "Migrate everything, make the template schema and (with --demo) a workspace to try. Quick when nothing is to do. Stopped, it goes on where it was."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser):
        parser.add_argument("--demo", action="store_true")
        parser.add_argument("--json", action="store_true", help="print one JSON object; known demo credentials are read from stdin")

    def say(self, done: int, count: int, slug: str, problem: str) -> None:
        """Progress on stderr: stdout is for the JSON."""
        self.stderr.write(f"migrated {done}/{count} {slug}" if not problem else f"FAILED {done}/{count} {slug}: {problem}")
        self.stderr.flush()

    def handle(self, *args, **options):
        known = json.loads(sys.stdin.read() or "{}") if options["json"] else {}
        try:
            changed = prepare(options["verbosity"] - 1, self.say)
        except MigrationFailed as error:
            raise CommandError(str(error)) from error
        result = {"migrated": changed}
        if options["demo"]:
            with one_at_a_time():
                result |= demo_ensure(known=known)
        if options["json"]:
            self.stdout.write(json.dumps(result))
        else:
            self.stdout.write("migrated" if changed else "nothing to migrate")
            if options["demo"]:
                self.stdout.write(f"demo workspace: {result['email']} {result['password']} {result['api_key']}")
