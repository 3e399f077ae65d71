"""The catalogue of published checkpoints: architecture, score, training data, license and source of each.

Nothing here accesses the network or imports torch. Unknown facts are left empty.
"""

from __future__ import annotations

from dataclasses import dataclass

_TORCHVISION = "terms of the data may apply; the authors of torchvision (BSD-3-Clause) name none for the file"
_DETR = "Apache-2.0 (the repository's)"
_DARKNET = "YOLO LICENSE (the repository's: do as you like)"


@dataclass(frozen=True)
class Part:
    """One file of a checkpoint."""

    url: str
    sha256: str  # its SHA-256, or the first digits of it
    named: str = ""  # its name in the cache, where it differs from the address's

    @property
    def file(self) -> str:
        return self.named or self.url.rsplit("/", 1)[1]


@dataclass(frozen=True)
class Published:
    """A checkpoint that can be fetched by name."""

    name: str
    url: str
    megabytes: float  # 2^20 bytes
    preset: str | None  # the preset that it fits; None: a backbone
    score: float | None  # box AP, or ImageNet top-1, in percent; None: not published, or it has no classifier
    parameters: int
    zero_eps: bool = False  # its frozen norms were trained with an epsilon of 0
    caffe_pixels: bool = False  # it expects pixels from 0 to 255 minus Caffe's mean, not ImageNet's normalization
    digest: str = ""  # SHA-256 where the file's name does not end with its first digits
    cfg: Part | None = None  # Darknet: the network
    names: Part | None = None  # Darknet: the class names
    data: str = ""  # what it was trained on
    tested: str = "COCO val2017"  # what a detector's score was measured on
    licence: str = ""
    source: str = ""  # where it is described

    @property
    def file(self) -> str:
        return self.url.rsplit("/", 1)[1]

    @property
    def sha256(self) -> str:
        """The file's SHA-256, or the first digits of it, which torchvision and DETR put at the end of its name."""
        return self.digest or self.file.rsplit("-", 1)[1].partition(".")[0]

    @property
    def bytes(self) -> float:
        return self.megabytes * 2**20

    @property
    def is_detector(self) -> bool:
        return self.preset is not None or self.cfg is not None

    @property
    def metric(self) -> str:
        return "COCO box AP" if self.is_detector else "ImageNet top-1"

    @property
    def weights(self) -> Part:
        return Part(self.url, self.sha256)

    @property
    def parts(self) -> tuple[Part, ...]:
        """All of its files, the weights first."""
        return (self.weights, *(part for part in (self.cfg, self.names) if part is not None))

    def card(self) -> list[tuple[str, str]]:
        """What a person should know before using it: (what, text)."""
        size = f"{self.megabytes:.0f} MB" if self.megabytes >= 1 else "size unknown"
        rows = [("what", self.preset or ("a Darknet detector" if self.cfg else "a backbone")), ("file", size)]
        if self.parameters:
            rows[1] = ("file", f"{size}, {self.parameters:,} parameters")
        if self.score is not None:
            rows.append(("score", f"{self.score:.1f} {self.metric}" + f" ({self.tested})" * self.is_detector))
        rows += [("data", self.data), ("licence", self.licence), ("source", self.source)]
        rows += [("sha256", self.sha256), ("from", " ".join(part.url for part in self.parts))]
        return [(what, text) for what, text in rows if text]


def _entry(
    name: str,
    file: str,
    megabytes: float,
    preset: str | None,
    score: float | None,
    parameters: int,
    zero_eps: bool = False,
    caffe_pixels: bool = False,
) -> Published:
    """One file of torchvision's model zoo: its documentation is the source of the figures."""
    url = f"https://download.pytorch.org/models/{file}.pth"
    return Published(
        name,
        url,
        megabytes,
        preset,
        score,
        parameters,
        zero_eps,
        caffe_pixels,
        data="ImageNet" if preset is None else "COCO train2017",
        licence=_TORCHVISION,
        source="https://docs.pytorch.org/vision/stable/models.html",
    )


def _detr(name: str, file: str, megabytes: float, score: float, parameters: int) -> Published:
    """One file of the original DETR's model zoo: its README is the source of the figures."""
    return Published(
        name.replace("_r", "_resnet"),
        f"https://dl.fbaipublicfiles.com/detr/{file}.pth",
        megabytes,
        name,
        score,
        parameters,
        data="COCO train2017",
        licence=_DETR,
        source="https://github.com/facebookresearch/detr",
    )


def _darknet(name: str, floats: int, score: float | None, weights: str, cfg: str) -> Published:
    """Darknet's own files; a 20-byte header and the floats are the file. ``weights`` and ``cfg`` are their hashes."""
    raw = "https://raw.githubusercontent.com/pjreddie/darknet/master"
    return Published(
        name,
        f"https://pjreddie.com/media/files/{name}.weights",
        (20 + 4 * floats) / 2**20,
        None,
        score,
        0,
        digest=weights,
        cfg=Part(f"{raw}/cfg/{name}.cfg", cfg),
        names=Part(f"{raw}/data/coco.names", "634a1132eb33f8091d60f2c346ababe8b905ae08387037aed883953b7329af84"),
        data="COCO",
        tested="test-dev",
        licence=_DARKNET,
        source="https://pjreddie.com/darknet/yolo",
    )


_TABLE = (
    _entry(
        "fasterrcnn_resnet50_fpn",
        "fasterrcnn_resnet50_fpn_coco-258fb6c6",
        159.743,
        "faster_rcnn_r50_fpn",
        37.0,
        41755286,
        True,
    ),
    _entry(
        "fasterrcnn_resnet50_fpn_v2",
        "fasterrcnn_resnet50_fpn_v2_coco-dd69338a",
        167.104,
        "faster_rcnn_r50_fpn_v2",
        46.7,
        43712278,
    ),
    _entry(
        "fasterrcnn_mobilenet_v3_large_fpn",
        "fasterrcnn_mobilenet_v3_large_fpn-fb6a3cc7",
        74.239,
        "faster_rcnn_mobilenet_v3_large_fpn",
        32.8,
        19386354,
    ),
    _entry(
        "fasterrcnn_mobilenet_v3_large_320_fpn",
        "fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9",
        74.239,
        "faster_rcnn_mobilenet_v3_large_320_fpn",
        22.8,
        19386354,
    ),
    # masks: 34.6 and 41.8 AP
    _entry(
        "maskrcnn_resnet50_fpn",
        "maskrcnn_resnet50_fpn_coco-bf2d0c1e",
        169.84,
        "mask_rcnn_r50_fpn",
        37.9,
        44401393,
        True,
    ),
    _entry(
        "maskrcnn_resnet50_fpn_v2",
        "maskrcnn_resnet50_fpn_v2_coco-73cbd019",
        177.219,
        "mask_rcnn_r50_fpn_v2",
        47.4,
        46359409,
    ),
    _entry(
        "retinanet_resnet50_fpn",
        "retinanet_resnet50_fpn_coco-eeacb38b",
        130.267,
        "retinanet_r50_fpn",
        36.4,
        34014999,
        True,
    ),
    _entry(
        "retinanet_resnet50_fpn_v2",
        "retinanet_resnet50_fpn_v2_coco-5905b1c5",
        146.037,
        "retinanet_r50_fpn_v2",
        41.5,
        38198935,
    ),
    _entry("fcos_resnet50_fpn", "fcos_resnet50_fpn_coco-99b0c9b7", 123.608, "fcos_r50_fpn", 39.2, 32269600),
    _entry("ssd300_vgg16", "ssd300_vgg16_coco-b556d3b4", 135.988, "ssd300_vgg16", 25.1, 35641826),
    _entry(
        "ssdlite320_mobilenet_v3_large",
        "ssdlite320_mobilenet_v3_large_coco-a79551df",
        13.418,
        "ssdlite320_mobilenet_v3_large",
        21.3,
        3440060,
    ),
    _detr("detr_r50", "detr-r50-e632da11", 159, 42.0, 41524768),
    _detr("detr_r50_dc5", "detr-r50-dc5-f0fb7ef5", 159, 43.3, 41524768),
    _detr("detr_r101", "detr-r101-2c7b67e5", 232, 43.5, 60464672),
    _detr("detr_r101_dc5", "detr-r101-dc5-a2e86def", 232, 44.9, 60464672),
    _darknet(
        "yolov3",
        62001757,
        33.0,
        "523e4e69e1d015393a1b0a441cef1d9c7659e3eb2d7e15f793f060a21b32f297",
        "22489ea38575dfa36c67a90048e8759576416a79d32dc11e15d2217777b9a953",
    ),
    _darknet(
        "yolov3-tiny",
        8858734,
        None,
        "dccea06f59b781ec1234ddf8d1e94b9519a97f4245748a7d4db75d5b7080a42c",
        "84eb7a675ef87c906019ff5a6e0effe275d175adb75100dcb47f0727917dc2c7",
    ),
    _entry("resnet50", "resnet50-0676ba61", 97.781, None, 76.130, 25557032),
    _entry("resnet50_v2", "resnet50-11ad3fa6", 97.79, None, 80.858, 25557032),
    _entry("resnet101", "resnet101-63fe2227", 170.511, None, 77.374, 44549160),
    _entry("resnext101_32x8d", "resnext101_32x8d-8ba56ff5", 339.586, None, 79.312, 88791336),
    _entry("vgg16", "vgg16-397923af", 527.796, None, 71.592, 138357544),
    # Caffe's VGG-16, for the pixels of SSD's presets
    _entry("vgg16_features", "vgg16_features-amdegroot-88682ab5", 527.802, None, None, 138357544, caffe_pixels=True),
    _entry("mobilenet_v3_large", "mobilenet_v3_large-8738ca79", 21.114, None, 74.042, 5483032),
    _entry("squeezenet1_0", "squeezenet1_0-b66bff10", 4.778, None, 58.092, 1248424),
)

PUBLISHED: dict[str, Published] = {entry.name: entry for entry in _TABLE}
ALIASES = {"accurate": "fasterrcnn_resnet50_fpn_v2", "fast": "fasterrcnn_mobilenet_v3_large_320_fpn"}
