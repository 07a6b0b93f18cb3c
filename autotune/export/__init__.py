"""Writes a selected configuration as a file that others read, with the evidence inside."""

from autotune.export.source import ExportSource
from autotune.export.write import FORMATS, Format, export, file_name, format_of

__all__ = ["FORMATS", "ExportSource", "Format", "export", "file_name", "format_of"]
