"""Writes a selected configuration as a file that others read, with the evidence inside."""

from autotune.export.data import points_csv
from autotune.export.read import Exported, read_export
from autotune.export.replay import Replay
from autotune.export.source import ExportSource
from autotune.export.write import FORMATS, Format, export, file_name, format_of

__all__ = [
    "FORMATS",
    "ExportSource",
    "Exported",
    "Format",
    "Replay",
    "export",
    "file_name",
    "format_of",
    "points_csv",
    "read_export",
]
