"""Lets timm be imported where torchvision's compiled kernels do not fit the installed PyTorch.

torchvision has no CPU-only build for every PyTorch; its Python part, all that timm's transforms use
on Pillow images, only needs two operators to be declared. Does nothing where the two fit.
"""

from __future__ import annotations

from typing import Any

_kept: list[Any] = []


def allow_torchvision_without_kernels() -> None:
    """Declare the operators that torchvision's import asks for."""
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)
