"""What searches come to, for tests that compare one with another."""

from dataclasses import replace
from typing import Any, NamedTuple

from petlas.petl.design import Design
from petlas.search.config import RunConfig
from petlas.search.driver import search
from petlas.search.study import StudyRecord, is_interrupted
from petlas.search.workbench import Workbench


class Tried(NamedTuple):
    """What came of a candidate, without the clock."""

    stage: str
    key: str
    fold: int | None
    state: str
    values: list[float] | None
    curve: dict[int, float]
    params: dict[str, Any]


def few_images(work: Workbench, train: int, val: int) -> Workbench:
    """The run on the first of its images: so many to learn from, and so many to measure on."""
    learned, whole = work.task.views["trainval"], train + val
    parts = {"train": range(train), "val": range(train, whole), "trainval": range(whole)}
    views = {name: learned.subset(part) for name, part in parts.items()}
    work.task = replace(work.task, views={**work.task.views, **views})
    return work


def by_size(design: Design, epoch: int) -> float:
    """A metric that grows with a design's sizes, and with the epochs."""
    return sum(p.size or 0 for p in design.placements) / 10 + epoch / 100


def searched(config: RunConfig) -> StudyRecord:
    """The study of a run when it has been searched."""
    search(config)
    return record_of(config)


def record_of(config: RunConfig) -> StudyRecord:
    """The study of a run that was searched."""
    return StudyRecord.read(config.folder, config.storage)


def trials(config: RunConfig) -> list[Any]:
    """Its trials."""
    return record_of(config).trials()


def tried(config: RunConfig) -> list[Tried]:
    """What came of every candidate, in the order in which they began, without what was cut off."""
    return [
        Tried(
            t.user_attrs["stage"],
            t.user_attrs["key"],
            t.user_attrs["fold"],
            t.state.name,
            t.values,
            t.intermediate_values,
            t.params,
        )
        for t in trials(config)
        if not is_interrupted(t)
    ]


def rows(record: StudyRecord) -> list[tuple[Any, ...]]:
    """What a study says of every trial, also of what was cut off, without the clock."""
    return [
        (t.number, t.state.name, t.user_attrs["key"], t.values, t.intermediate_values, t.user_attrs.get("epochs"))
        for t in record.trials()
    ]
