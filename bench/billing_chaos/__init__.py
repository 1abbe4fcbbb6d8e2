"""Bills under kill -9 (`python -m bench.billing_chaos`)."""
