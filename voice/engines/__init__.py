"""Engines by name: the module voice/engines/<stage>/<name>.py with its class Engine is the engine <name>."""

from __future__ import annotations

import importlib
import pkgutil
import re
import threading
from collections import OrderedDict

from voice.engines.base import Engine, EngineError, EngineSettings

MAX_LOADED = 8  # models a process keeps in memory


def names(stage: str) -> list[str]:
    """Every engine of a stage: the files of its folder."""
    package = importlib.import_module(f"voice.engines.{stage}")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def create(stage: str, name: str, model: str, settings: EngineSettings) -> Engine:
    """A new, not yet loaded engine. Raises EngineError unknown_engine."""
    if not re.fullmatch(r"[a-z0-9_]+", name) or name not in names(stage):
        raise EngineError(f"no {stage} engine {name!r}; there are: {', '.join(names(stage))}", code="unknown_engine")
    return importlib.import_module(f"voice.engines.{stage}.{name}").Engine(model, settings)


class EngineCache:
    """Loads each (stage, engine, model) once per process; the one used longest ago is closed when there are too many."""

    def __init__(self, settings: EngineSettings):
        self._settings = settings
        self._lock = threading.Lock()
        self._loaded: OrderedDict[tuple[str, str, str], Engine] = OrderedDict()

    def get(self, stage: str, name: str, model: str) -> Engine:
        """Raises EngineError, ModelNotFound."""
        key = (stage, name, model)
        with self._lock:
            if engine := self._loaded.get(key):
                self._loaded.move_to_end(key)
                return engine
            engine = create(stage, name, model, self._settings)
            engine.load()
            self._loaded[key] = engine
            old = self._loaded.popitem(last=False)[1] if len(self._loaded) > MAX_LOADED else None
        if old:
            old.close()
        return engine

    def close(self) -> None:
        with self._lock:
            for engine in self._loaded.values():
                engine.close()
            self._loaded.clear()
