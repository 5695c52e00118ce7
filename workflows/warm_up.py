"""What a process imports while the command itself plans the first image."""

from brainchop_pipe.inference.session import Device, load_library


def warm_up(device: Device) -> None:
    """Import what the first steps of an image import when they are called, and the library of a device."""
    from brainchop_pipe.core import interpolate  # noqa: F401

    load_library(device)
