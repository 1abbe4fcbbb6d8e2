"""What `make run` and plain commands use: the base."""

from config.settings.base import *  # noqa: F403
