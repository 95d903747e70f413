"""The version, read by the build and by every result that is written."""

__version__ = "0.2.0"
