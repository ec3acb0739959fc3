"""`avatarmod export` for a process of its own, in an environment as `torch_shim` describes."""

from tests.export.torch_shim import allow_torchvision_without_kernels

if __name__ == "__main__":
    allow_torchvision_without_kernels()
    from worker.model.export.command import export

    export()
