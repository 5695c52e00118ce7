"""What a process imports while the command itself plans the first image."""

from importlib import import_module

from brainchop_pipe.inference.session import Device, load_library


def warm_up(device: Device) -> None:
    """Import what the first steps of an image import when they are called, and the library of a device."""
    import_module("brainchop_pipe.core.interpolate")
    load_library(device)
