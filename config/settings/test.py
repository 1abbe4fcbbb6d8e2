"""Faster, never laxer."""

from config.settings.base import *  # noqa: F403
