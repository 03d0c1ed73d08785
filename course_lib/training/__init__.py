"""The training loop of all chapters: `train(model, batches, loss, config)`, and the history that it returns.

It may be killed and started again, and it runs unchanged under `torchrun`. Nothing here knows a model.
"""

from __future__ import annotations

from course_lib.training.batches import Batches
from course_lib.training.config import TrainConfig
from course_lib.training.history import History
from course_lib.training.loop import Loss, train
from course_lib.training.schedules import paper_rate, schedule_factor

__all__ = ["Batches", "History", "Loss", "TrainConfig", "paper_rate", "schedule_factor", "train"]
