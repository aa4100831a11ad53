"""Units. Sizes are bytes, or GiB where a name says so; rates are Gbit/s."""

GIB = 1024**3
"""Bytes of a GiB."""


def quantity(written: str) -> str:
    """A binary quantity (`1024Gi`) as Kubernetes writes it (`1Ti`).

    An operator's webhook that reserialises an object writes it this way. Any other spelling would show a diff on every
    run.
    """
    amount, unit = int(written[:-2]), written[-2:]
    while unit in ("Mi", "Gi") and amount % 1024 == 0:
        amount, unit = amount // 1024, {"Mi": "Gi", "Gi": "Ti"}[unit]
    return f"{amount}{unit}"


def minutes(seconds: float) -> str:
    """A duration as people say it, such as `3 min 20 s`."""
    return f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"
