"""Units. Sizes are bytes, or GiB where a name says so; rates are Gbit/s."""

GIB = 1024**3
"""Bytes of a GiB."""
