"""Which release is this? One number for the whole distribution."""

__version__ = "0.1.0"
