"""Task Center: scheduled HTTP callbacks as a self-hosted service."""

__version__ = "0.1.0"
