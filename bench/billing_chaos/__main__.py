"""Bills under kill -9: `python -m bench.billing_chaos [--events 10000]`. Prints what was heard, written, summed, reported and invoiced; ends 1 when they differ.

Clients talk to real gateways while one part of the product after the other is killed with -9 and started again: gateways, engine and
`default` workers, beat, portal, Redis, PostgreSQL, the billing sandbox; and several in the same moment. Meanwhile turns are written again, out of order, from copies
of the journal; meter events are reported again; webhooks are sent twice and shuffled; billing periods end under way.
The report goes to var/reports/billing_chaos.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from bench.billing_chaos.chaos import Chaos
from bench.billing_chaos.reckoning import reckon, verdict
from bench.house import ROOT, House


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.billing_chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=10_000, help="ledger entries to write")
    parser.add_argument("--seconds", type=float, default=1800, help="stop earlier after so long; the report says so")
    parser.add_argument("--sessions", type=int, default=16, help="clients at once")
    parser.add_argument("--kills", type=int, default=36, help="at least so many; 17 are one round through all parts")
    parser.add_argument("--kill-every", type=float, default=4, help="seconds between two kills, about")
    parser.add_argument("--only", default="", help='what is killed, as "redis + gateway-1, default"; all parts, alone and together, without')
    parser.add_argument("--power-cuts", action="store_true", help="where several are killed together, Redis comes back without its last second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=Path, default=ROOT / "var" / "reports" / "billing_chaos.json")
    return parser.parse_args(arguments)


def main() -> int:
    options = parse()
    random.seed(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="vivavoce-chaos-"))
    folder.chmod(0o755)
    house = House(folder)
    os.environ.setdefault("LOG_LEVEL", "ERROR")
    import django

    django.setup()
    import config.celery  # noqa: F401

    try:
        house.start_servers()
        from apps.tenants.bootstrap import prepare

        prepare()
        house.start()
        chaos = Chaos(options, house)
        chaos.subscribe()
        clients = chaos.run()
        took = time.monotonic() - chaos.began
        chaos.settle()
        result = reckon(chaos, clients)
        report = {"seconds": round(took, 1), "kills": dict(chaos.kills), "timeline": chaos.timeline, "planted and counted": dict(chaos.counts), **result}
        bad = verdict(result)
        report |= {"does not add up": bad, "events asked for": options.events}
        options.report.parent.mkdir(parents=True, exist_ok=True)
        options.report.write_text(json.dumps(report, indent=1, default=str))
        print(json.dumps({k: v for k, v in report.items() if k not in ("rollups", "timeline")}, indent=1, default=str))
        if bad:
            kept = options.report.with_suffix(".logs")
            shutil.rmtree(kept, ignore_errors=True)
            kept.mkdir()
            for log in folder.glob("*.log"):
                shutil.copy(log, kept)
        return 1 if bad or result["entries"] < options.events else 0
    finally:
        house.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
