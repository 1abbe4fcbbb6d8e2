from __future__ import annotations

import argparse
import sys

from django.core.management.base import BaseCommand

from voice.gateway import talk


class Command(BaseCommand):
    help = "Talk to a gateway: a WAV file, --text or --mic; prints transcript, answer and the waterfall."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser):
        talk.add_arguments(parser)

    def handle(self, *args, **options):
        sys.exit(talk.run(argparse.Namespace(**options)))
