"""What is learned from: tasks, their splits, and the store of decoded images."""

from petlas.datasets.catalog import TaskInfo, list_tasks, open_task
from petlas.datasets.images import read_image, to_rgb
from petlas.datasets.split import stratified_split
from petlas.datasets.store import INTERPOLATIONS, open_store
from petlas.datasets.task import SPLITS, DataError, Source, Split, Task

__all__ = [
    "INTERPOLATIONS",
    "SPLITS",
    "DataError",
    "Source",
    "Split",
    "Task",
    "TaskInfo",
    "list_tasks",
    "open_store",
    "open_task",
    "read_image",
    "stratified_split",
    "to_rgb",
]
