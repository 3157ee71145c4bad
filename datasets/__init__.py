"""What is learned from: tasks, the views of them, and the stores of decoded images."""

from petlas.datasets.catalog import TaskInfo, list_tasks, open_task
from petlas.datasets.checks import check_images, check_overlap, check_task
from petlas.datasets.errors import DataError, shown
from petlas.datasets.images import SUFFIXES, ValueRange, read_image, to_rgb
from petlas.datasets.readers import READERS, get_reader
from petlas.datasets.sources import ArraySource, FileSource
from petlas.datasets.split import stratified_split
from petlas.datasets.stores import INTERPOLATIONS, open_store
from petlas.datasets.task import VIEWS, Source, Task, View, class_counts

__all__ = [
    "INTERPOLATIONS",
    "READERS",
    "SUFFIXES",
    "VIEWS",
    "ArraySource",
    "DataError",
    "FileSource",
    "Source",
    "Task",
    "TaskInfo",
    "ValueRange",
    "View",
    "check_images",
    "check_overlap",
    "check_task",
    "class_counts",
    "get_reader",
    "list_tasks",
    "open_store",
    "open_task",
    "read_image",
    "shown",
    "stratified_split",
    "to_rgb",
]
