from __future__ import annotations

import shutil
import sys
from pathlib import Path

import httpx
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils.module_loading import import_string

STAGES = ("stt", "llm", "tts")


class Command(BaseCommand):
    help = "Models: `models list` shows what is here and what can be had, `models pull NAME` downloads one into var/models/."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser):
        actions = parser.add_subparsers(dest="action", required=True)
        actions.add_parser("list")
        pull = actions.add_parser("pull")
        pull.add_argument("name")

    def handle(self, *args, **options):
        self.catalogue = import_string("config.catalogue.CATALOGUE")
        getattr(self, options["action"])(options)

    def installed(self) -> dict[tuple[str, str], Path]:
        found = {}
        for folder in settings.VOICE.MODELS_DIRS:
            for stage in STAGES:
                for path in sorted((folder / stage).glob("*")) if (folder / stage).is_dir() else ():
                    found[stage, path.name] = path
        return found

    def list(self, options):
        installed = self.installed()
        self.stdout.write("here:")
        for (stage, name), path in installed.items():
            size = sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) / 2**20
            card = self.catalogue.get(name)
            self.stdout.write(f"  {stage}  {name:26} {size:8.1f} MB  {card.licence if card else 'this project'}  {path}")
        self.stdout.write("  tts  espeak-ng                  part of espeakng-loader  GPL-3.0")
        self.stdout.write("to be had by `manage.py models pull NAME`:")
        for name, model in self.catalogue.items():
            if (model.stage, name) not in installed:
                self.stdout.write(f"  {model.stage}  {name:26} {model.megabytes:8} MB  {model.licence}  {model.note}")
        names = ", ".join(f"{s.upper()}_ENGINE={e} {s.upper()}_MODEL={m}" for s, (e, m) in settings.VOICE_ENGINES.items())
        self.stdout.write(f"in use: {names}")

    def pull(self, options):
        name = options["name"]
        model = self.catalogue.get(name)
        if model is None:
            raise CommandError(f"no model {name!r}; there are: {', '.join(self.catalogue)}")
        target = settings.VOICE.MODELS_DIRS[-1] / model.stage / name
        if target.exists():
            self.stdout.write(f"{target} is there already")
            return
        staging = target.with_name(name + ".part")
        staging.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(staging).free < model.megabytes * 2**20 * 1.1:
            raise CommandError(f"{model.megabytes} MB are needed under {staging}; free some space")
        try:
            if model.repository:
                self._from_hub(model.repository, staging)
            for url in model.files:
                self._download(url, staging / url.rsplit("/", 1)[1])
        except (httpx.HTTPError, OSError) as error:
            raise CommandError(f"{name} could not be downloaded ({error}); what is here already is kept in {staging}, run it again") from error
        staging.rename(target)
        self.stdout.write(f"{target}\nuse it: {model.stage.upper()}_ENGINE={model.engine} {model.stage.upper()}_MODEL={name}")

    def _from_hub(self, repository: str, folder: Path) -> None:
        try:
            from huggingface_hub import snapshot_download
        except ImportError as error:
            raise CommandError("huggingface_hub is missing: pip install huggingface_hub") from error
        snapshot_download(repository, local_dir=folder)

    def _download(self, url: str, path: Path) -> None:
        """With a progress bar; goes on where an earlier try stopped."""
        begun = path.stat().st_size if path.exists() else 0
        headers = {"Range": f"bytes={begun}-"} if begun else {}
        with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=httpx.Timeout(30)) as answer:
            if answer.status_code == 416:
                return
            answer.raise_for_status()
            if answer.status_code != 206:
                begun = 0
            total = begun + int(answer.headers.get("content-length", 0))
            with open(path, "ab" if begun else "wb") as file:
                for block in answer.iter_bytes(2**20):
                    file.write(block)
                    begun += len(block)
                    print(f"\r{path.name} {begun / 2**20:.0f} of {total / 2**20:.0f} MB", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
