"""The training and validation data of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lightning_fabric import Fabric

from ..data.open import check_trainable, split_pair
from ..data.records.dataset import Dataset
from ..errors import UsageError
from ..external_proposals.cache import ensure_cached, fill_proposals, from_source
from ..files.aliases import PathLike
from ..runtime.processes import first_alone
from ..runtime.progress import Console
from .arguments import TrainArguments

if TYPE_CHECKING:
    from ..parts.selective_search import ProposalSource


@dataclass(frozen=True)
class Datasets:
    """Both datasets, and a note on how they were divided where the data has no splits."""

    training: Dataset
    validation: Dataset
    note: str

    @property
    def same(self) -> bool:
        """Whether the run validates on its training images on purpose, as ``foveal check`` does."""
        a, b = self.training, self.validation
        return a.path == b.path and a.split == b.split

    @property
    def both(self) -> tuple[Dataset, Dataset]:
        return self.training, self.validation

    def limited(self, limit: int | None) -> Datasets:
        """The first ``limit`` images of each. Raises :class:`FovealError` for data without objects."""
        training, validation = (replace(d, records=d.records[:limit]) for d in self.both)
        if self.same:  # asked for, and the banner says so once
            validation.findings = [f for f in validation.findings if f.code != "image-in-two-splits"]
        check_trainable(training)
        check_trainable(validation, "val")
        return Datasets(training, validation, self.note)

    def with_proposals(
        self,
        source: ProposalSource | None,
        files: PathLike | Sequence[PathLike] | None,
        fabric: Fabric,
        console: Console,
    ) -> Datasets:
        """With external proposals, where the detector takes them. The first process computes what is missing."""
        if source is None:
            if files is not None:
                raise UsageError("this detector takes no external proposals", where="--proposals", fix="Leave them out")
            return self

        def prepare() -> list[str]:
            for dataset in self.both if files is None else ():
                ensure_cached(dataset.records, source.setting, from_source(source), progress=console.task("proposals"))
            return []

        making = console.task("proposals")
        if fabric.world_size > 1:
            first_alone(fabric, prepare)
        training, validation = (fill_proposals(d, source, files, progress=making) for d in self.both)
        return Datasets(training, validation, self.note)


def read_sets(arguments: TrainArguments) -> Datasets:
    """Reads both datasets of a call, whole."""
    pair = split_pair(
        arguments.data,
        val=arguments.val,
        split_map=arguments.split,
        seed=arguments.seed,
        images=arguments.images,
        classes=arguments.classes,
        others=arguments.others,
        convention=arguments.convention,
    )
    return Datasets(*pair)
