"""`python -m bench.schemathesis [--examples 100] [--role NAME …]`: random requests of every role over the whole OpenAPI document.

Prints a line a role and adds it to var/reports/schemathesis.json (so that it can be run role by role); exits 1 when a role met a 5xx or an
answer the document does not describe.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from dataclasses import asdict

from bench.surroundings import database, kept, payment_provider, report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=100, help="an operation and role")
    parser.add_argument("--role", action="append", help="default: all")
    options = parser.parse_args()
    rows = kept("schemathesis").get("roles", {})
    broken = 0
    with database(), payment_provider():
        from tests.openapi import ROLES, fuzz

        for role in options.role or ROLES:
            problem, outcome = "", {}
            try:
                outcome = asdict(fuzz(role, options.examples))
            except BaseExceptionGroup as group:
                problem = "".join(traceback.format_exception(group))[-3000:]
            except Exception as error:  # whatever the application raised is what we look for
                problem = "".join(traceback.format_exception(error))[-3000:]
            broken += bool(problem)
            rows[role] = {"examples": options.examples, "break": problem, **outcome}
            print(json.dumps(rows[role]), flush=True)
            report("schemathesis", {"roles": rows, "requests": sum(r.get("requests", 0) for r in rows.values()),
                                    "breaks": sum(bool(r["break"]) for r in rows.values())})  # fmt: skip
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
