"""Label Studio's ML backend protocol: predictions for its tasks, whose images are inline or below one folder."""

from __future__ import annotations

import base64
import binascii
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..data.writing.label_studio import LabelConfig, prediction_of, read_label_config, regions_of
from ..errors import FovealError
from .limits import Refused
from .models import Asked, ServedModel

if TYPE_CHECKING:
    from .app import Service

MOST_TASKS = 1000  # of a request
_LOCAL, _UPLOADED = "/data/local-files/", "/data/upload/"


@dataclass(frozen=True)
class LabelStudio:
    """The routes below ``/labelstudio``. ``root``: the folder of the images; None: images must be inline."""

    service: Service
    root: Path | None = None
    score: float = 0.5

    def routes(self) -> list[Route]:
        return [
            Route("/labelstudio/health", self.health, methods=["GET"]),
            Route("/labelstudio/setup", self.setup, methods=["POST"]),
            Route("/labelstudio/predict", self.predict, methods=["POST"]),
            Route("/labelstudio/webhook", self.webhook, methods=["POST"]),
        ]

    @property
    def model(self) -> ServedModel:
        return next(iter(self.service.models.values()))

    @property
    def version(self) -> str:
        """Name of the model, and the beginning of its digest."""
        return f"{self.model.name} {str(self.model.facts['sha256'] or '')[:8]}".strip()

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "UP", "model_class": str(self.model.facts["architecture"])})

    async def webhook(self, request: Request) -> Response:
        """Annotations that were made: nothing learns from them here."""
        return JSONResponse({})

    async def setup(self, request: Request) -> Response:
        """The version of the model; a project without a label for any class is refused."""
        sent = await self._sent(request)
        _, missing = self._config(sent.get("schema"))
        return JSONResponse({"model_version": self.version, "classes_without_label": missing})

    async def predict(self, request: Request) -> Response:
        """A prediction for each task. Where no image can be read it is an error, else those have no regions."""
        sent = await self._sent(request)
        tasks = sent.get("tasks")
        if not isinstance(tasks, list) or len(tasks) > MOST_TASKS:
            raise Refused(400, "bad_tasks", f"tasks must be a list of at most {MOST_TASKS} tasks")
        config, _ = self._config(sent.get("label_config"))
        results: list[dict[str, Any]] = []
        refused: list[Refused] = []
        for task in tasks:
            try:
                regions = await self._regions(request, task, config)
            except Refused as error:
                if error.status in (503, 504):
                    raise
                refused.append(error)
                regions = []
            results.append(prediction_of(regions, self.version))
        if refused and len(refused) == len(tasks):
            raise refused[0]
        for one in refused[:5]:
            sys.stderr.write(f"labelstudio: {one.message}\n")
        return JSONResponse({"results": results, "model_version": self.version})

    async def _sent(self, request: Request) -> dict[str, Any]:
        """The JSON of a request."""
        self.service.active += 1
        try:
            with self.service.bodies.receiving(request) as body:
                sent = json.loads(await body.read())
        except (ValueError, RecursionError):
            raise Refused(400, "not_json", "the body is no JSON") from None
        except ClientDisconnect:
            raise Refused(400, "gone", "the client left", close=True) from None
        finally:
            self.service.active -= 1
        if not isinstance(sent, dict):
            raise Refused(400, "not_json", "the body is no JSON object")
        return sent

    def _config(self, text: Any) -> tuple[LabelConfig, list[str]]:
        """The labels of a project, and the classes that none of them fits: Label Studio would drop those silently."""
        if not isinstance(text, str):
            raise Refused(400, "no_config", "the labeling configuration of the project is missing")
        try:
            config = read_label_config(text, "the project")
        except FovealError as error:
            raise Refused(422, "bad_config", str(error)) from None
        missing = [name for name in self.model.classes if config.label_of(name) is None]
        if len(missing) == len(self.model.classes):
            names, labels = ", ".join(missing[:20]), ", ".join(config.labels[:20])
            raise Refused(422, "no_label", f"no class of the model ({names}) is a label of the project ({labels})")
        return config, missing

    async def _regions(self, request: Request, task: Any, config: LabelConfig) -> list[dict[str, Any]]:
        address = _address(task, config)
        model, limits = self.model, self.service.limits
        answer = await self.service.detect(
            request, lambda: model.answer(self._image(address), Asked(self.score), limits.pixels)
        )
        found = json.loads(answer)
        self.service.metrics.detected(model.name)
        return regions_of(found["detections"], found["width"], found["height"], config)

    # ---------------------------------------------------------------------------------------------- images
    def _image(self, address: str) -> bytes:
        """The bytes of an image: of ``data:image/...;base64,...``, or of a file below the root. Raises Refused."""
        if address.startswith("data:"):
            try:
                return base64.b64decode(address.partition(",")[2], validate=True)
            except binascii.Error:
                raise Refused(415, "not_an_image", "an image in the task is no base64") from None
        if self.root is None:
            raise Refused(422, "no_root", "images of files need foveal serve --labelstudio-root FOLDER")
        for name in _names(address):
            file = (self.root / name).resolve()
            if file.is_relative_to(self.root.resolve()) and file.is_file():
                if file.stat().st_size > self.service.limits.body:
                    raise Refused(413, "too_large", f"{name} has more than {self.service.limits.body:,} bytes")
                return file.read_bytes()
        raise Refused(404, "no_such_image", f"{address[:200]} is no file below the folder of --labelstudio-root")


def _address(task: Any, config: LabelConfig) -> str:
    """What a task says of its image."""
    data = task.get("data") if isinstance(task, dict) else None
    address = data.get(config.key) if isinstance(data, dict) else None
    if not isinstance(address, str):
        raise Refused(400, "bad_task", f"a task has no text {config.key!r} in its data")
    return address


def _names(address: str) -> Sequence[str]:
    """The paths below the root that an address of Label Studio may mean; nothing is fetched."""
    try:
        parts = urlsplit(address)
    except ValueError:
        raise Refused(422, "bad_address", "an address in the task is none") from None
    if parts.scheme or parts.netloc:
        where = f"{address[:200]} is elsewhere, and nothing is fetched"
        raise Refused(422, "not_fetched", f"{where}: use local files and --labelstudio-root")
    if "\0" in unquote(address):
        raise Refused(422, "bad_address", "a path in the task has a zero byte")
    if parts.path.rstrip("/") == _LOCAL.rstrip("/"):
        query = [pair.partition("=") for pair in parts.query.split("&")]
        return [unquote(value).lstrip("/") for name, _, value in query if name == "d"]
    path = unquote(parts.path)
    if path.startswith(_UPLOADED):
        inside = path.removeprefix("/data/")
        return [inside, f"media/{inside}"]
    return [path.lstrip("/")]
