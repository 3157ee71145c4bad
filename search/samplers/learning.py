"""The study that a sampler learns from: in memory, and with nothing in it that the sampler should not see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from optuna.study import Study, StudyDirection

_NAME = "learning"


class LearningStudy(Study):
    """An Optuna study in memory; of several objectives, the first is the one that trials are pruned by.

    `Trial.report` and the order of pruned trials need one direction, which Optuna's own study of several objectives
    refuses to name.

    Args:
        directions: Of each objective: `maximize` or `minimize`.
        sampler: Draws new trials.
    """

    def __init__(
        self, directions: Sequence[Literal["minimize", "maximize"] | StudyDirection], sampler: BaseSampler | None = None
    ) -> None:
        self.storage = InMemoryStorage()
        optuna.create_study(study_name=_NAME, storage=self.storage, directions=directions)
        super().__init__(_NAME, self.storage, sampler)

    @property
    def direction(self) -> StudyDirection:
        """The direction of the first objective."""
        return self.directions[0]

    def report(self, number: int, step: int, value: float) -> None:
        """Keep an intermediate value of the first objective.

        Args:
            number: A running trial's number in this study.
            step: Such as an epoch.
            value: The value.
        """
        study_id = self.storage.get_study_id_from_name(self.study_name)
        trial_id = self.storage.get_trial_id_from_study_id_trial_number(study_id, number)
        self.storage.set_trial_intermediate_value(trial_id, step, value)
