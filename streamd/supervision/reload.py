"""Reads the configuration again while the service runs."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from streamd.config import Config
from streamd.engines import ModelInfo
from streamd.errors import StreamdError
from streamd.linux.memory import Doorbell


@dataclass(frozen=True, slots=True)
class Reloaded:
    """A configuration that is fit to run, and the model that it names."""

    config: Config
    model: ModelInfo


class Reload:
    """Loads on a thread of its own, since a model may have to be exported first.

    `bell` is rung when `take` has something.
    """

    def __init__(self, load: Callable[[], Reloaded], bell: Doorbell) -> None:
        self._load = load
        self._bell = bell
        self._outcome: Reloaded | StreamdError | None = None
        self._thread: threading.Thread | None = None
        self._again = False

    def begin(self) -> None:
        """Starts to load; while it does so already, it will do so once more."""
        if self._thread is not None:
            self._again = True
            return
        self._thread = threading.Thread(target=self._run, name="reload", daemon=True)
        self._thread.start()

    def take(self) -> Reloaded | StreamdError | None:
        """What was loaded, or why it cannot be used; None while there is nothing new."""
        if self._thread is None or self._thread.is_alive():
            return None
        self._thread = None
        outcome, self._outcome = self._outcome, None
        if self._again:
            self._again = False
            self.begin()
            return None
        return outcome

    def _run(self) -> None:
        try:
            self._outcome = self._load()
        except StreamdError as error:
            self._outcome = error
        except Exception as error:  # that nobody foresaw: the service goes on, and says so
            self._outcome = StreamdError(f"{type(error).__name__}: {error}")
        finally:
            self._bell.ring()
