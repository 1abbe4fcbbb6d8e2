"""`python -m bench.chaos`: processes are killed, frozen and restarted under live sessions, and what that cost is counted."""
