"""Proposal files, the proposal cache, and the proposals of records in the loader."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from foveal.cli import main as cli
from foveal.data.augment.transforms import Expand, FixedCrop, HorizontalFlip, IoUCrop, Jitter, ScaleJitter
from foveal.data.loader.loader import Loader
from foveal.data.open import open_dataset
from foveal.data.records.dataset import Dataset, Record
from foveal.errors import FovealError, UsageError
from foveal.external_proposals import cache as proposals
from foveal.external_proposals.cache import ProposalResult, content_keys, ensure_cached, fill_proposals, from_source
from foveal.external_proposals.file import TableImage, content_key, read_table, write_table
from foveal.parts.resizing import Letterbox, Resize, Stretch
from foveal.parts.selective_search import Proposed, SlidingWindows
from tests.helpers.data_sets import image, voc

SOURCE = SlidingWindows(top=5, sizes=(1.0, 0.5), stride=0.5)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "proposals"


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return open_dataset(voc(tmp_path / "voc", splits=False))  # a, b, c, d: 64 x 48


def found(count: int, seed: int = 0) -> Proposed:
    corners = np.sort(np.random.default_rng(seed).uniform(0, 40, (count, 2, 2)), 1)
    corners[:, 1] += 1
    return Proposed(corners.reshape(-1, 4).astype(np.float32), np.linspace(1, 0.5, count, dtype=np.float32))


# ------------------------------------------------------------------------------------------- proposal files
def test_file_is_safetensors_and_read_memory_mapped(tmp_path: Path) -> None:
    path, parts = tmp_path / "p.safetensors", [found(3), found(0), found(5, 1)]
    write_table(path, "here", [TableImage("k1", "a"), TableImage("k2", "b"), TableImage("k3", "c")], parts)
    with safe_open(path, "numpy") as file:  # safetensors' own reader
        assert file.get_tensor("starts").tolist() == [0, 3, 3, 8]
        np.testing.assert_array_equal(file.get_tensor("boxes"), np.concatenate([p.boxes for p in parts]))
        metadata = json.loads(file.metadata()["foveal_proposals"])
    assert metadata == {"schema": 1, "setting": "here", "images": [["k1", "a"], ["k2", "b"], ["k3", "c"]]}
    table = read_table(path)
    assert isinstance(table.boxes.base, np.memmap) and table.rows == {"k1": 0, "k2": 1, "k3": 2}
    for row, part in enumerate(parts):
        for ours, given in zip(table.of(row, 64, 48), part, strict=True):
            np.testing.assert_array_equal(ours, given)
    write_table(tmp_path / "empty.safetensors", "here", [], [])
    assert read_table(tmp_path / "empty.safetensors").boxes.shape == (0, 4)
    assert sorted(p.name for p in tmp_path.glob("*.part")) == []


def test_invalid_proposal_files_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    with pytest.raises(FovealError, match=r"no such proposals file.*foveal proposals"):
        read_table(path)
    write_table(path, "here", [TableImage("k", "a")], [found(4)])
    whole = path.read_bytes()
    for spoiled in (b"", b"\x89PNG" + whole, whole[:-1], whole[:60], whole.replace(b"starts", b"starps")):
        path.write_bytes(spoiled)
        with pytest.raises(FovealError, match=r"not a proposals file|it is truncated|is inconsistent"):
            read_table(path)
    path.write_bytes(whole.replace(b'schema\\": 1', b'schema\\": 2'))
    with pytest.raises(FovealError, match="schema 2"):
        read_table(path)


@pytest.mark.parametrize("box", [[5, 5, 4, 9], [0, 0, np.nan, 9], [0, 0, 99, 9], [-9, 0, 4, 9]])
def test_invalid_box_is_named(tmp_path: Path, box: list[float]) -> None:
    path = tmp_path / "p.safetensors"
    boxes = np.array([[0, 0, 9, 9], box], np.float32)
    write_table(path, "here", [TableImage("k", "a")], [Proposed(boxes, np.ones(2, np.float32))])
    with pytest.raises(FovealError, match=r"row 1: a proposal of image a is"):
        read_table(path).of(0, 64, 48)


@pytest.mark.parametrize("scores", [[0.5, 0.9], [0.5, np.nan], [np.nan, 0.5]])
def test_scores_not_in_descending_order_are_named(tmp_path: Path, scores: list[float]) -> None:
    """Only the first proposals are used, which are the best."""
    path = tmp_path / "p.safetensors"
    boxes = np.array([[0, 0, 9, 9]] * 2, np.float32)
    write_table(path, "here", [TableImage("k", "a")], [Proposed(boxes, np.array(scores, np.float32))])
    with pytest.raises(FovealError, match=r"rows 0 to 1: the scores of image a are not in descending order"):
        read_table(path).of(0, 64, 48)
    boxes = np.array([[0, 0, 9, 9]], np.float32)
    write_table(
        path, "here", [TableImage("k", "a"), TableImage("l", "b")], [Proposed(boxes, boxes[:, 2] * 0), found(0)]
    )
    assert [len(read_table(path).of(i, 64, 48).boxes) for i in range(2)] == [1, 0]


# -------------------------------------------------------------------------------------------- proposal cache
@dataclass
class Counted:
    """A source that counts its calls and is killed after a number of images."""

    made: int = 0
    stop: int | None = None

    def __call__(self, records: Sequence[Record]) -> Generator[ProposalResult, None, None]:
        for index, _ in enumerate(records):
            if self.made == self.stop:
                raise KeyboardInterrupt
            self.made += 1
            yield index, found(3, index)


def many_records(tmp_path: Path, count: int) -> list[Record]:
    blank = open_dataset(voc(tmp_path / "one", splits=False)).records[0]
    return [replace(blank, id=i, path=image(tmp_path / "many" / f"{i}.png", seed=i)) for i in range(count)]


def test_second_call_uses_the_cache_also_for_a_subset(tmp_path: Path, cache: Path) -> None:
    records, maker = many_records(tmp_path, 6), Counted()
    first = ensure_cached(records, "s", maker)
    assert (maker.made, first.made, len(list(cache.rglob("*.safetensors")))) == (6, 6, 1)
    again = ensure_cached(records[::-1], "s", maker)
    part = ensure_cached(records[2:4], "s", maker)
    assert (again.made, part.made, maker.made, len(list(cache.rglob("*")))) == (0, 0, 6, 2)
    assert ensure_cached(records, "other", maker).made == 6  # another setting is another folder
    image(Path(records[0].path), seed=99)  # the same name with another content
    assert ensure_cached(records, "s", maker).made == 1


def test_killed_generation_is_resumed(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of 4: a kill after 10 of 12 loses nothing, since the partial shard is written too."""
    monkeypatch.setattr(proposals, "PIECE", 4)
    records = many_records(tmp_path, 12)
    with pytest.raises(KeyboardInterrupt):
        ensure_cached(records, "s", Counted(stop=10))
    pieces = list(cache.rglob("piece-*"))
    assert len(pieces) == 3
    pieces[0].write_bytes(b"cut off")  # and a damaged one is recomputed
    lost = 12 - sum(len(read_table(p).images) for p in pieces[1:])
    progress: list[tuple[int, int]] = []
    second = ensure_cached(records, "s", Counted(), progress=lambda done, total: progress.append((done, total)))
    assert second.made == lost and progress[0] == (12 - lost, 12) and progress[-1] == (12, 12)
    assert [p.name[:5] for p in cache.rglob("*.safetensors")] == [second.table.path.name[:5]] != ["piece"]
    assert set(second.table.rows) == set(content_keys(records))


def test_shards_merged_by_another_process(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It then removes the shards, also those that this process is about to read."""
    monkeypatch.setattr(proposals, "PIECE", 2)
    records, write = many_records(tmp_path, 6), proposals.write_table

    def late(path: Path, *rest: Any) -> None:
        if not path.name.startswith("piece-"):
            monkeypatch.setattr(proposals, "write_table", write)
            assert ensure_cached(records, "s", Counted(stop=0)).made == 0 and not list(cache.rglob("piece-*"))
        write(path, *rest)

    monkeypatch.setattr(proposals, "write_table", late)
    done = ensure_cached(records, "s", Counted())
    assert done.made == 6 and set(done.table.rows) == set(content_keys(records))
    done.table.path.unlink()  # computed proposals are retained if the file is deleted
    assert len(done.table.boxes) == 18


def test_images_that_cannot_be_read_are_named(dataset: Dataset) -> None:
    Path(dataset.records[1].path).write_bytes(b"no image")
    Path(dataset.records[2].path).unlink()
    done = ensure_cached(dataset.records, SOURCE.setting, from_source(SOURCE))
    assert done.made == 2 and [str(e.path) for e in done.skipped] == [str(r.path) for r in dataset.records[1:3]]
    assert done.keys[2] is None
    filled = fill_proposals(dataset, SOURCE)
    assert [len(r.proposals) for r in filled.records] == [5, 0, 0, 5]  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------- records
def stored(dataset: Dataset, path: Path, counts: Sequence[int], keys: Sequence[str] | None = None) -> Path:
    found_ = [found(n, i) for i, n in enumerate(counts)]
    keys = keys or [content_key(r.path) for r in dataset.records]
    names = [TableImage(k, str(r.id)) for k, r in zip(keys, dataset.records, strict=False)]
    write_table(path, "mine", names[: len(counts)], found_)
    return path


def test_file_fills_the_records_in_any_order(dataset: Dataset, tmp_path: Path) -> None:
    path = stored(dataset, tmp_path / "p.safetensors", (3, 9, 1, 2))
    turned = replace(dataset, records=dataset.records[::-1])
    assert [len(r.proposals) for r in fill_proposals(turned, SOURCE, path).records] == [2, 1, 5, 3]  # type: ignore[arg-type]


def test_files_that_do_not_match_the_data(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    with pytest.raises(FovealError, match=r"no proposals for 1 of the 4 images \(d\)"):
        fill_proposals(dataset, SOURCE, stored(dataset, path, (3, 3, 3)))
    with pytest.raises(FovealError, match=r"another version of 4 of the 4 images \(a, b, c, d\)"):
        fill_proposals(dataset, SOURCE, stored(dataset, path, (3, 3, 3, 3), ["1", "2", "3", "4"]))
    other = replace(dataset, records=[replace(r, id=f"x{r.id}") for r in dataset.records])
    with pytest.raises(FovealError, match=r"no proposals for 4 of the 4 images \(a, b, c, d\).*foveal proposals"):
        fill_proposals(dataset, SOURCE, stored(other, path, (3, 3, 3, 3), ["1", "2", "3", "4"]))


def test_files_of_equal_settings_are_merged(dataset: Dataset, tmp_path: Path) -> None:
    half = [replace(dataset, records=part) for part in (dataset.records[:2], dataset.records[2:])]
    files = [stored(d, tmp_path / str(i) / "proposals.safetensors", (3, 4)).parent for i, d in enumerate(half)]
    assert [len(r.proposals) for r in fill_proposals(dataset, SOURCE, files).records] == [3, 4, 3, 4]  # type: ignore[arg-type]
    write_table(tmp_path / "0" / "proposals.safetensors", "otherwise", [], [])
    with pytest.raises(UsageError, match=r"was made by mine, but .* by otherwise"):
        fill_proposals(dataset, SOURCE, files)


def test_file_of_another_version_is_named(dataset: Dataset, tmp_path: Path) -> None:
    half = [replace(dataset, records=part) for part in (dataset.records[:2], dataset.records[2:])]
    files = [stored(d, tmp_path / str(i) / "proposals.safetensors", (3, 4)) for i, d in enumerate(half)]
    image(Path(dataset.records[3].path), seed=77)
    with pytest.raises(FovealError, match=r"another version of 1 of the 4 images \(d\)") as caught:
        fill_proposals(dataset, SOURCE, files)
    assert caught.value.path == str(files[1])


def test_check_names_the_image_that_changed(tmp_path: Path) -> None:
    """Training renumbers the images; the message names those of the user."""
    from foveal.checks.overfit import overfit
    from tests.detectors.test_fast_rcnn import TINY

    data = open_dataset(voc(tmp_path / "data"), split="train")
    path = stored(data, tmp_path / "p.safetensors", (3, 3))
    image(Path(data.records[0].path), seed=77)
    with pytest.raises(FovealError, match=r"another version of 1 of the 2 images \(a\)"):
        overfit(TINY, data, proposals=[path])


def test_image_without_proposals_is_a_finding(dataset: Dataset, tmp_path: Path) -> None:
    filled = fill_proposals(dataset, SOURCE, stored(dataset, tmp_path / "p.safetensors", (3, 0, 3, 3)))
    new = [f for f in filled.findings if f not in dataset.findings]
    assert [(f.code, f.severity, Path(f.path).stem) for f in new] == [("image-without-proposals", "warning", "b")]


# ----------------------------------------------------------------------------------------------------- loader
@pytest.mark.parametrize("rule", [Resize(80, 120), Letterbox(96, 96), Stretch(70, 90)])
@pytest.mark.parametrize(
    "augment",
    [(), (HorizontalFlip(1.0),), (Expand(p=1.0),), (Jitter(0.1, visible=0.0), HorizontalFlip()),
     (ScaleJitter(visible=0.0),), (FixedCrop(50, 40),)],
    ids=["plain", "flip", "expand", "jitter", "scale", "crop"],
)  # fmt: skip
def test_proposals_are_transformed_like_the_objects(dataset: Dataset, augment: tuple[Any, ...], rule: Any) -> None:
    """The objects as proposals: after any geometric transform both must be equal boxes."""
    records = [replace(r, proposals=r.boxes.astype(np.float32)) for r in dataset.records]
    loader = Loader(replace(dataset, records=records), rule, augment, batch=4, seed=3, shuffle=False)
    (batch,) = loader.epoch()
    images, targets = batch.images, batch.targets
    assert images.proposals is not None and images.proposals_valid is not None
    torch.testing.assert_close(images.proposals, targets.boxes, rtol=0, atol=1e-5)
    assert (images.proposals_valid == (targets.valid | targets.ignore)).all() and images.proposals_valid.sum() >= 4


def test_proposals_survive_a_crop_that_removes_objects(dataset: Dataset) -> None:
    """IoUCrop drops objects whose center is outside; proposals that reach inside are retained, clipped."""
    whole = np.array([[0, 0, 64, 48]], np.float32)
    records = [replace(r, proposals=whole) for r in dataset.records]
    loader = Loader(replace(dataset, records=records), Resize(48, 64, multiple=1), (IoUCrop((0.3,)),), batch=4, seed=1)
    (batch,) = loader.epoch()
    height_width = batch.images.sizes.float()
    assert batch.images.proposals is not None
    torch.testing.assert_close(batch.images.proposals[:, 0, 2:], height_width.flip(1))


def test_loader_workers_load_proposals_only_when_needed(dataset: Dataset) -> None:
    filled = fill_proposals(dataset, SOURCE)
    here, there = (next(Loader(filled, Resize(48, 64), batch=2, workers=w).epoch()).images for w in (0, 1))
    assert here.proposals is not None and torch.equal(here.proposals, there.proposals)  # type: ignore[arg-type]
    assert next(Loader(dataset, Resize(48, 64), batch=2).epoch()).images.proposals is None


# ---------------------------------------------------------------------------------------------------- the command
def test_proposals_command_generates_reports_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = voc(tmp_path / "voc"), tmp_path / "out"
    words = ["proposals", "--data", str(source), "--split", "train", "--method", "sliding_windows", "--out", str(out)]
    assert cli.main(words) == 0
    first = capsys.readouterr().out
    assert "recall70@2000" in first and "2 made" in first
    recall = json.loads((out / "recall.json").read_text())
    assert recall["images"] == 2 and recall["objects"] == 3 and recall["made"] == 2 and recall["seconds_per_image"] > 0
    assert {"AR@100", "AR@300", "AR@1000", "AR@2000", "recall50@300", "recall70@100", "small", "large"} <= set(recall)
    assert recall["boxes_per_image"] == recall["proposals"] / 2
    assert cli.main(words) == 0 and "all from the cache" in capsys.readouterr().out

    table = read_table(out / "proposals.safetensors")
    assert [n.id for n in table.images] == ["a", "b"] and len(table.boxes) == recall["proposals"]
    arrays = np.load(out / "proposals.npz")
    np.testing.assert_array_equal(arrays["boxes"], table.boxes)
    train = open_dataset(source, split="train")
    assert fill_proposals(train, SOURCE, out).records[0].proposals.shape == (5, 4)  # type: ignore[union-attr]
    with pytest.raises(FovealError, match="no proposals for 2 of the 2 images"):
        fill_proposals(open_dataset(source, split="val"), SOURCE, out / "proposals.safetensors")


def test_proposals_command_accepts_a_source_from_a_spec(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["proposals", "--data", str(voc(tmp_path / "voc")), "--split", "train", "--json", str(tmp_path / "r.json")]
    assert cli.main([*words, "--method", "SlidingWindows(sizes=(1.0,), ratios=(1.0,), top=7)"]) == 0
    recall = json.loads((tmp_path / "r.json").read_text())
    assert recall["setting"] == SlidingWindows(sizes=(1.0,), ratios=(1.0,)).setting  # the setting does not include top
    capsys.readouterr()
    for wrong, message in (
        ("Focal()", "not a source of proposals"),
        ("SlidingWindow()", "SlidingWindows"),
        ("sliding", "sliding_windows?"),
    ):
        assert cli.main([*words, "--method", wrong]) == 2 and message in capsys.readouterr().err


def test_proposals_command_names_images_without_proposals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["proposals", "--data", str(voc(tmp_path / "voc")), "--split", "train", "--method", "sliding_windows"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SlidingWindows, "__call__", lambda self, image: found(0))
        assert cli.main(words) == 0
    output = capsys.readouterr()
    assert (
        "no proposals: nothing can be detected" in output.err
        and "2 warnings" in output.err
        and "0 boxes an image" in output.out
    )


def test_proposals_for_a_detector_with_an_rpn(tmp_path: Path) -> None:
    from foveal import presets
    from foveal.external_proposals.detector import with_proposals

    dataset = open_dataset(voc(tmp_path / "voc"), split="train")
    detector = presets.retinanet_mini.build(dataset.classes)
    assert with_proposals(detector, dataset) is dataset
    with pytest.raises(UsageError, match="uses no external proposals"):
        with_proposals(detector, dataset, "p.safetensors")


def test_proposals_and_recall_as_a_function(tmp_path: Path) -> None:
    from foveal.evaluation.recall import score_proposals

    dataset = open_dataset(voc(tmp_path / "voc"), split="train")
    done = score_proposals("sliding_windows", dataset)
    again = score_proposals("sliding_windows", dataset)
    assert (done.made, again.made, again.seconds) == (2, 0, None)
    assert done.recall == again.recall and done.per_image == len(done.table) / 2
    done.save(tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"recall.json", "proposals.npz", "proposals.safetensors"}
    assert json.loads((tmp_path / "out" / "recall.json").read_text()) == done.to_dict()
