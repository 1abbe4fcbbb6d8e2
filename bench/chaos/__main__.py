"""`python -m bench.chaos [--quick] [--only NAME] [--count N] [--go-on]`: each part prints its table and writes var/reports/chaos-*.json as it goes."""

from __future__ import annotations

import argparse
import sys

from bench.chaos import gateways, stores, workers
from bench.chaos.ground import Ground

# name -> (what, full, quick)
PARTS = {
    "gateway": (gateways.kill, 50, 3),
    "drain": (gateways.drain, 20, 2),
    "worker-kill": (workers.kill, 50, 2),
    "worker-freeze": (workers.freeze, 10, 1),
    "redis": (lambda ground, times: stores.restarts(ground, times, "redis"), 20, 2),
    "postgres": (lambda ground, times: stores.restarts(ground, times, "postgres"), 20, 2),
    "redis-freeze": (lambda ground, times: stores.freezes(ground, times, "redis"), 10, 1),
    "postgres-freeze": (lambda ground, times: stores.freezes(ground, times, "postgres"), 10, 1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few of each")
    parser.add_argument("--only", default="", help=f"comma-separated parts of {', '.join(PARTS)}")
    parser.add_argument("--count", "--times", type=int, default=0, help="how often each is done")
    parser.add_argument("--go-on", action="store_true", help="begin where the last run was stopped (by its report)")
    options = parser.parse_args()
    from apps.tenants.context import bound_public

    names = options.only.split(",") if options.only else list(PARTS)
    if unknown := set(names) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are: {', '.join(PARTS)}")
    ground, good = Ground(options.go_on), True
    with bound_public():
        try:
            ground.start(gateways=3 if {"gateway", "drain"} & set(names) else 2, workers=3 if {"worker-kill", "worker-freeze"} & set(names) else 2)
            for name in names:
                run, full, quick = PARTS[name]
                print(f"== {name}", flush=True)
                good &= run(ground, options.count or (quick if options.quick else full))
        finally:
            ground.stop()
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
