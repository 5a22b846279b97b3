"""Another model for a running service: the old one works until the new one is warm."""

from dataclasses import dataclass

from streamd.config import ModelConfig
from streamd.config.secrets import mask_text
from streamd.engines import ModelInfo
from streamd.logs import get_logger
from streamd.processes.messages import EngineReport, ModelRefused, UseModel
from streamd.supervision.crew import Crew
from streamd.supervision.layout import Layout


@dataclass(slots=True)
class _Pending:
    """A change that was asked for; `sent` once a worker knows of it."""

    order: UseModel
    sent: bool = False


class ModelSwap:
    """The change of the model, on the supervisor's own thread.

    The layout keeps the model in use, with which a worker that dies is started again: so one that
    cannot be loaded, or kills its worker, leaves the service as it was.
    """

    def __init__(self, layout: Layout, crew: Crew) -> None:
        self._layout = layout
        self._crew = crew
        self._pending: _Pending | None = None
        self._number = 0
        self._overtaken: dict[int, UseModel] = {}
        self._log = get_logger()

    @property
    def newest(self) -> ModelInfo:
        """The model that was asked for last."""
        return self._pending.order.model if self._pending else self._layout.model

    def want(self, model: ModelInfo, config: ModelConfig) -> None:
        """Uses `model` as `config` says, as soon as it can be."""
        using = (self._layout.model, self._layout.config.model)
        if self._pending is not None:
            using = (self._pending.order.model, self._pending.order.config)
        if (model, config) == using:
            return
        reason = self._needs_restart(model, config)
        if reason:
            self._log.warning("reload_partial", sections=["model"], reason=reason)
            return
        if self._pending is not None and self._pending.sent:
            self._overtaken[self._pending.order.number] = self._pending.order
        self._number += 1
        self._pending = _Pending(UseModel(self._number, model, config))
        self._log.info("model_swap", model=model.path, effect="the old one works until it is warm")
        self.tick()

    def tick(self) -> None:
        """Tells inference what is wanted, once there is a worker to tell."""
        if self._pending is not None and not self._pending.sent:
            self._pending.sent = self._crew.use_model(self._pending.order)

    def heard(self, message: EngineReport | ModelRefused) -> None:
        """An engine is warm, or a model was refused."""
        overtaken = self._overtaken.pop(message.swap, None)
        if overtaken is not None:
            if isinstance(message, EngineReport):  # it works until the newer one is warm
                self._is_used(overtaken)
            return
        pending = self._pending
        if pending is None or message.swap != pending.order.number:
            return  # a worker's first engine
        self._pending = None
        if isinstance(message, ModelRefused):
            self._failed(pending, message.error)
            return
        self._is_used(pending.order)
        self._log.info("model_swapped", model=message.model, load_s=message.load_s)

    def _is_used(self, order: UseModel) -> None:
        self._layout.model = order.model
        self._layout.config = self._layout.config.model_copy(update={"model": order.config})

    def worker_died(self) -> None:
        """The inference worker is gone; if it was loading the new model, that may be the cause."""
        self._overtaken.clear()
        if self._pending is not None and self._pending.sent:
            pending, self._pending = self._pending, None
            self._failed(pending, "the worker that loaded it died")

    def _failed(self, pending: _Pending, error: str) -> None:
        blind = self._without_labels()
        self._log.error(
            "model_swap_failed",
            model=pending.order.model.path,
            reason=mask_text(error),
            effect=f"{self._layout.model.path} goes on",
            **({"cameras_without_labels": blind} if blind else {}),
        )

    def _without_labels(self) -> list[str]:
        """Cameras that report nothing: their classes are those of the model that was refused."""
        labels = self._layout.model.labels
        cameras = [place.config for place in self._layout.places.values() if not place.leaving]
        return sorted(c.id for c in cameras if c.classes and not set(c.classes) & set(labels))

    def _needs_restart(self, model: ModelInfo, config: ModelConfig) -> str | None:
        """Why the pictures in the slots would not fit `model`; None where they do."""
        before = self._layout.model
        if model.shapes != before.shapes:
            now, then = (" ".join(map(str, each.shapes)) for each in (model, before))
            return f"its input is {now}, not {then}: restart the service for it"
        if config.resample != self._layout.config.model.resample:
            return "model.resample: restart the service for it"
        return None
