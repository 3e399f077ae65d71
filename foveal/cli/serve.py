"""``foveal serve``."""

from __future__ import annotations

import secrets
import socket
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from .common import Device, print_err, print_out, single

OWN = ("127.0.0.1", "::1", "localhost")  # addresses that no other machine reaches

Models = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL [MODEL]",
        help="A file of `foveal export` (.onnx), a run, checkpoint, alias or weights file; two are shown side by side.",
        show_default=False,
    ),
]
Host = Annotated[str, typer.Option("--host", help="Address to listen on; another than this machine's own: --key too.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0: any that is free.")]
Key = Annotated[
    str | None, typer.Option("--key", help="Key that every request must bring; auto: a new one, which is printed.")
]
Open = Annotated[bool, typer.Option("--open", help="Let everybody who reaches --host use it, without a key.")]
AllowHost = Annotated[
    list[str] | None, typer.Option("--allow-host", help="Another name of this server; several are joined.")
]
Cert = Annotated[
    Path | None, typer.Option("--cert", help="Certificate for https (a camera needs it, but on localhost).")
]
CertKey = Annotated[Path | None, typer.Option("--cert-key", help="Private key of the certificate.")]
Body = Annotated[float, typer.Option("--max-body", min=0.001, help="Most megabytes of an image.")]
Pixels = Annotated[float, typer.Option("--max-pixels", min=0.0001, help="Most megapixels of an image.")]
Waiting = Annotated[int, typer.Option("--waiting", min=0, help="Most images that wait; more get 503.")]
Seconds = Annotated[float, typer.Option("--answer-time", min=0.01, help="Most seconds until an answer.")]
Connections = Annotated[int, typer.Option("--connections", min=1, help="Most connections.")]
RateLimit = Annotated[int, typer.Option("--rate", min=0, help="Most requests a minute of one client; 0: any number.")]
StudioRoot = Annotated[
    Path | None,
    typer.Option("--labelstudio-root", help="Folder of the images of Label Studio's tasks, its document root."),
]
StudioScore = Annotated[
    float, typer.Option("--labelstudio-score", min=0, max=1, help="Score threshold of Label Studio's predictions.")
]
Threads = Annotated[int, typer.Option("--threads", min=0, help="Threads of ONNX Runtime; 0: its own choice.")]


def serve(
    models: Models,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    key: Key = None,
    open_to_all: Open = False,
    allow_host: AllowHost = None,
    cert: Cert = None,
    cert_key: CertKey = None,
    max_body: Body = 20.0,
    max_pixels: Pixels = 64.0,
    waiting: Waiting = 32,
    answer_time: Seconds = 30.0,
    connections: Connections = 256,
    rate: RateLimit = 0,
    labelstudio_root: StudioRoot = None,
    labelstudio_score: StudioScore = 0.5,
    threads: Threads = 0,
    device: Device = "auto",
) -> None:
    """Serves one detector, or two side by side: a page in the browser, and POST /predict with the image as the body.

    It answers this machine alone unless --host says otherwise, fetches nothing, writes nothing to the disk and takes no
    path and no address from a request. A file of `foveal export` runs without torch. SIGTERM or Ctrl-C ends it after
    what it has accepted is answered.

    \b
    Example:
      foveal serve first.onnx
      foveal serve runs/first runs/second --port 8080
      curl --data-binary @photo.jpg 'http://127.0.0.1:8000/predict?score=.3'
      foveal serve first.onnx --host 0.0.0.0 --key auto --cert cert.pem --cert-key key.pem
      foveal serve first.onnx --labelstudio-root ~/labeling    # a model for Label Studio: ADDRESS/labelstudio
    """
    _check(models, host, key, open_to_all, (cert is None) != (cert_key is None), labelstudio_root)
    from ..runtime.memory import keep_some_freed_memory
    from ..serving.app import Service
    from ..serving.guard import Access
    from ..serving.labelstudio import LabelStudio
    from ..serving.limits import Limits
    from ..serving.models import open_models
    from ..serving.server import Certificate, bind, run_server

    keep_some_freed_memory()
    sizes = {"body": int(max_body * 1e6), "pixels": int(max_pixels * 1e6)}
    limits = Limits(**sizes, waiting=waiting, answer_time=answer_time, connections=connections, rate=rate)
    names = {name.lower() for name in (host, *(allow_host or ()), socket.gethostname())} | {"localhost"}
    access = Access(frozenset(names), secrets.token_urlsafe(24) if key == "auto" else key)
    certificate = None if cert is None else Certificate(str(cert), str(cert_key))
    with bind(host, port) as listener:
        service = Service(open_models(models, device=device, threads=threads), limits)

        def told() -> None:
            _tell(list(service.models), listener, access.key, generated=key == "auto", encrypted=cert is not None)

        routes = LabelStudio(service, labelstudio_root, labelstudio_score).routes()
        run_server(service, access, listener, routes=routes, certificate=certificate, told=told)
    print_err("stopped: all that was accepted is answered")


def _check(
    models: list[str], host: str, key: str | None, open_to_all: bool, half_a_certificate: bool, root: Path | None
) -> None:
    """Raises :class:`UsageError` for options that do not belong together."""
    if len(models) > 2:
        raise UsageError(f"{len(models)} models are given, and one or two can be served")
    if missing := [name for name in ("starlette", "uvicorn") if find_spec(name) is None]:
        raise UsageError(f"serve needs {' and '.join(missing)}", fix="Run pip install 'foveal[serve]'")
    if host not in OWN and key is None and not open_to_all:
        raise UsageError(
            f"--host {host} lets other machines in", fix="Give --key auto, a --key of your own, or --open for everybody"
        )
    if key == "":
        raise UsageError("the key is empty", where="--key", fix="Give --key auto, or a longer one")
    if half_a_certificate:
        raise UsageError("--cert and --cert-key belong together")
    if root is not None and not root.is_dir():
        raise UsageError("no such folder", path=root, where="--labelstudio-root")


def _tell(models: list[str], listener: socket.socket, key: str | None, *, generated: bool, encrypted: bool) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print_out(f"serving {', '.join(models)} on {'https' if encrypted else 'http'}://{shown}:{port}")
    if generated:
        print_out(f"key: {key}")
    if host not in OWN:
        who = "everybody who reaches this address" if key is None else "everybody who has the key"
        plain = "" if encrypted else ", and what is sent can be read on the way"
        print_err(f"warning: {who} can use it{plain}")


app = single(serve)
