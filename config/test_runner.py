"""`manage.py test` runs the same tests as `pytest`, in a process of its own (settings are chosen before Django loads)."""

from __future__ import annotations

import subprocess
import sys

from config.env import ROOT


class PytestRunner:
    def __init__(self, verbosity=1, failfast=False, keepdb=False, **kwargs):
        self.arguments = (["-v"] if verbosity > 1 else []) + (["-x"] if failfast else [])

    def run_tests(self, test_labels, **kwargs) -> int:
        return subprocess.run([sys.executable, "-m", "pytest", *self.arguments, *test_labels], cwd=ROOT).returncode
