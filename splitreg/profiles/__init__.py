"""Profiles of devices and links: data files that state where each figure comes from; no torch."""

from splitreg.profiles.profile import DeviceProfile, Figure, LinkProfile, devices, links, read_device, read_link

__all__ = [
    "DeviceProfile", "Figure", "LinkProfile", "devices", "links", "read_device", "read_link",
]  # fmt: skip
