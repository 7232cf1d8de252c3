"""The one place that says which version this is; hatchling reads it at build time."""

__version__ = "0.2.0"
