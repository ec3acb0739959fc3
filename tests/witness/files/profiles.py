"""ICC profiles, true and impossible."""

from __future__ import annotations

import struct

import numpy as np

from tests.unit.pictures import grey_icc_profile, icc_profile

#: Columns are red, green and blue of sRGB at D50. Source: IEC 61966-2-1, adapted by Bradford.
SRGB = np.array([[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7139]])

#: A valid profile under which every picture is nearly one colour.
FLAT = icc_profile(SRGB, 1 / 250)
#: Red, green and blue change places.
PERMUTED = icc_profile(np.roll(SRGB, 1, axis=1), 2.2)
PLAIN = icc_profile(SRGB, 2.2)
GREY_FLAT = grey_icc_profile(1 / 250)


def version(profile: bytes, major: int) -> bytes:
    """The same with another version."""
    return profile[:8] + bytes([major]) + profile[9:]


def space(profile: bytes, name: bytes) -> bytes:
    """The same for another colour space."""
    return profile[:16] + name + profile[20:]


def kind(profile: bytes, name: bytes) -> bytes:
    """The same for another class of devices."""
    return profile[:12] + name + profile[16:]


def size(profile: bytes, more: int) -> bytes:
    """The same with a size that is not true."""
    return struct.pack(">I", len(profile) + more) + profile[4:]


def odd() -> dict[str, bytes]:
    """Profiles of all kinds by name."""
    return {
        "flat": FLAT,
        "permuted": PERMUTED,
        "grey-space": GREY_FLAT,
        "grey-space-rgb-curves": space(FLAT, b"GRAY"),
        "cmyk-space": space(FLAT, b"CMYK"),
        "lab-space": space(FLAT, b"Lab "),
        "version-0": version(FLAT, 0),
        "version-1": version(FLAT, 1),
        "version-3": version(FLAT, 3),
        "version-4": version(FLAT, 4),
        "version-5": version(FLAT, 5),
        "version-9": version(FLAT, 9),
        "size-longer": size(FLAT, 40),
        "size-shorter": size(FLAT, -40),
        "trailing": FLAT + bytes(100),
        "cut": FLAT[:-30],
        "header-only": FLAT[:128],
        "short": FLAT[:60],
        "empty": b"",
        "no-signature": FLAT[:36] + b"none" + FLAT[40:],
        "class-scanner": kind(FLAT, b"scnr"),
        "class-output": kind(FLAT, b"prtr"),
        "class-link": kind(FLAT, b"link"),
        "class-abstract": kind(FLAT, b"abst"),
        "class-space": kind(FLAT, b"spac"),
        "pcs-lab": FLAT[:20] + b"Lab " + FLAT[24:],
        "dark-gamma": icc_profile(SRGB, 7.9),
        "negative-primaries": icc_profile(-SRGB, 2.2),
        "zero-primaries": icc_profile(SRGB * 0, 2.2),
        "bright-primaries": icc_profile(SRGB * 3, 2.2),
        "dim-primaries": icc_profile(SRGB * 0.3, 2.2),
    }
