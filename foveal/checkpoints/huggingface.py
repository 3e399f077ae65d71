"""A model as a folder of the Hugging Face Hub: ``config.json`` with ``id2label``, and ``model.safetensors``.

A DETR is written as transformers' own, which its ``DetrForObjectDetection.from_pretrained`` reads; every other detector
under our keys, with ``"model_type": "foveal"`` and the spec as text. Both are read back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..assembly.detector import Spec
from ..config.parse import spec_from_json
from ..config.show import spec_to_json
from ..errors import FovealError, UsageError
from ..files.atomic import atomic_folder, read_object
from ..weights.open import StateDict, read_state
from .folder import CONFIG

if TYPE_CHECKING:
    from ..detectors.detr import DETR
    from ..weights.keys_detr import Form, Inner

PROCESSOR = "preprocessor_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
OURS = "foveal"


def read_hub_folder(
    path: Path, preset: str | None = None, parts: Sequence[type] = ()
) -> tuple[Spec, tuple[str, ...], StateDict, str]:
    """Spec, class names, state, and the hashes of the images that trained it.

    Raises ``FovealError`` with the file where one is missing or wrong.
    """
    from .foreign.detr import import_detr, label_names

    config = read_object(path / CONFIG)
    file = next((path / name for name in WEIGHTS if (path / name).is_file()), None)
    if file is None:
        raise FovealError(f"has no {' or '.join(WEIGHTS)}", path=path, fix="Save the weights in a single file")
    kind = config.get("model_type")
    if kind == OURS:
        if preset is not None:
            raise UsageError(f"{path} contains its own spec", fix="Leave the preset out")
        try:
            spec = spec_from_json(config, parts=parts)
        except FovealError as error:
            raise type(error)(error.message, path=path / CONFIG, where=error.where, fix=error.fix) from error
        names = label_names(config.get("id2label"), path / CONFIG)
        return spec, names, read_state(file), str(config.get("trained_on", ""))
    if kind != "detr":
        fix = f"Use a folder of model_type 'detr', or of {OURS!r} from `foveal weights export --to hf`"
        raise FovealError(f"model_type is {kind!r}, which is not supported", path=path / CONFIG, fix=fix)
    processor = read_object(path / PROCESSOR) if (path / PROCESSOR).is_file() else {}
    spec, classes, state = import_detr(read_state(file), file, preset, config=config, processor=processor)
    return spec, classes, state, str(config.get("trained_on", ""))


def write_hub_folder(
    out: Path,
    spec: Spec,
    classes: Sequence[str],
    state: StateDict,
    form: Form = "transformers",
    inner: Inner = "timm",
    trained_on: str = "",
) -> list[Path]:
    """Writes the folder, whole or not at all. Returns the paths. ``form`` and ``inner`` are for a DETR on a ResNet.

    Raises ``FovealError`` where the folder is not empty.
    """
    from ..detectors.detr import DETR
    from .foreign.detr import export_detr, processor_config, transformers_config

    spec = spec.with_pixels()
    files: dict[str, Mapping[str, Any]] = {}
    own = {"trained_on": trained_on} if trained_on else {}
    if isinstance(spec, DETR) and _is_theirs(spec):
        theirs = export_detr(spec, state, form, inner)
        files[CONFIG] = {**transformers_config(spec, classes, inner), **own}
        files[PROCESSOR] = processor_config(spec)
        return _written(out, theirs, files)
    labels = {"id2label": {str(i): n for i, n in enumerate(classes)}, "label2id": {n: i for i, n in enumerate(classes)}}
    files[CONFIG] = {"model_type": OURS, "architectures": [type(spec).__name__], **labels, **spec_to_json(spec), **own}
    return _written(out, state, files)


def _is_theirs(spec: DETR) -> bool:
    """Whether transformers can compute it."""
    from .foreign.detr import export_detr, processor_config

    try:
        export_detr(spec, {}, "original")
        processor_config(spec)
    except FovealError:
        return False
    return True


def _written(out: Path, state: Mapping[str, Tensor], files: Mapping[str, Mapping[str, Any]]) -> list[Path]:
    from safetensors.torch import save

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FovealError("exists already", path=out, fix="Name a new or empty folder")
    with atomic_folder(out) as folder:
        (folder / WEIGHTS[0]).write_bytes(save({k: v.contiguous() for k, v in state.items()}, {"format": "pt"}))
        for name, content in files.items():
            text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
            (folder / name).write_text(text, encoding="utf-8", errors="backslashreplace")
    return [out / name for name in (*files, WEIGHTS[0])]
