"""What is asked of a running service: SIGHUP, and cameras by the API."""

import queue
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass

from streamd.config import CameraConfig
from streamd.config.secrets import mask_text
from streamd.errors import ConfigError, SetupError, StreamdError
from streamd.linux.memory import Doorbell
from streamd.logs import get_logger
from streamd.supervision.fleet import Fleet
from streamd.supervision.layout import Layout, check_classes
from streamd.supervision.model_swap import ModelSwap
from streamd.supervision.reload import Reload, Reloaded
from streamd.supervision.roster import Roster

_ANSWER_WITHIN_S = 5.0
# What cannot change while the service runs, since everything was built upon it.
_FIXED = ("redis", "http", "ingest", "log", "publish")


@dataclass(frozen=True, slots=True)
class _Request:
    """Something that another thread asks for, and where it waits for the answer."""

    work: Callable[[], str]
    answer: "Future[str]"


class Control:
    """Takes requests on any thread; `tick` does them on the supervisor's own.

    `load` reads the configuration file again; `bell` wakes the supervisor.
    """

    def __init__(
        self,
        layout: Layout,
        fleet: Fleet,
        roster: Roster,
        swap: ModelSwap,
        load: Callable[[], Reloaded],
        bell: Doorbell,
    ) -> None:
        self._layout = layout
        self._fleet = fleet
        self._roster = roster
        self._swap = swap
        self._bell = bell
        self._reload = Reload(load, bell)
        self._requests: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        self._by_request: dict[str, CameraConfig] = {}
        self._log = get_logger()

    def put_camera(self, camera: CameraConfig) -> str:
        """Reads `camera`; gives "started", "restarted" or "unchanged", of a disabled one "stopped".

        It stays over reloads, unless the file has a camera of that id by then. Raises StreamdError
        where it cannot be read, TimeoutError where the supervisor is busy.
        """
        return self._ask(lambda: self._put(camera))

    def delete_camera(self, camera: str) -> str:
        """Reads a camera no more; gives "stopped". Raises KeyError where there is none."""
        return self._ask(lambda: self._delete(camera))

    def reload(self) -> None:
        """Reads the file again, and makes what it says so."""
        self._log.info("reloading", file=self._layout.config.file)
        self._reload.begin()

    def tick(self) -> None:
        """Does what was asked for since the last time."""
        self._apply_reload()
        self._swap.tick()
        while not self._requests.empty():
            request = self._requests.get()
            if not request.answer.set_running_or_notify_cancel():
                continue  # who asked was told that it is not done
            try:
                request.answer.set_result(request.work())
            except (StreamdError, KeyError) as error:
                request.answer.set_exception(error)

    def _ask(self, work: Callable[[], str]) -> str:
        request = _Request(work, Future())
        self._requests.put(request)
        self._bell.ring()
        try:
            return request.answer.result(_ANSWER_WITHIN_S)
        except TimeoutError:
            if request.answer.cancel():
                raise
            return request.answer.result()  # it is being done

    def _put(self, camera: CameraConfig) -> str:
        before = self._fleet.cameras.get(camera.id)
        if before is not None and before.config == camera:
            return "unchanged"
        if self._layout.config.redis.mixes_with_status(camera.id):
            raise SetupError(f"{camera.id}: its events would go to redis.status_stream")
        check_classes(self._layout.config, [camera], self._swap.newest)
        if camera.enabled:
            self._roster.start(camera)
            result = "restarted" if before is not None else "started"
        else:
            if before is not None:
                self._roster.stop(camera.id)
            result = "stopped"
        self._by_request[camera.id] = camera
        self._log.info("camera_put", camera=camera.id, result=result)
        return result

    def _delete(self, camera: str) -> str:
        asked = self._by_request.pop(camera, None)
        if asked is None or asked.enabled:
            self._roster.stop(camera)
        self._log.info("camera_deleted", camera=camera)
        return "stopped"

    def _apply_reload(self) -> None:
        """An invalid file changes nothing."""
        loaded = self._reload.take()
        if isinstance(loaded, StreamdError):
            self._refuse(loaded)
        elif loaded is not None:
            self._apply(loaded)

    def _refuse(self, error: StreamdError) -> None:
        reason = mask_text(str(error))
        self._log.error("reload_failed", reason=reason, effect="nothing changed")

    def _apply(self, loaded: Reloaded) -> None:
        before, after = self._layout.config, loaded.config
        cameras = {camera.id: camera for camera in after.cameras}
        by_request = {i: c for i, c in self._by_request.items() if i not in cameras}
        try:
            check_classes(after, by_request.values(), loaded.model)
        except ConfigError as error:
            self._refuse(error)
            return
        fixed = [name for name in _FIXED if getattr(before, name) != getattr(after, name)]
        if fixed:
            hint = "restart the service for these"
            self._log.warning("reload_partial", sections=fixed, reason=hint)
        # The model follows once another is warm.
        self._layout.config = after.keeping(before, [*fixed, "model"])
        self._swap.want(loaded.model, after.model)
        self._by_request = by_request
        wanted = [*cameras.values(), *by_request.values()]
        changes = self._roster.apply([camera for camera in wanted if camera.enabled])
        self._log.info("reloaded", **asdict(changes))
