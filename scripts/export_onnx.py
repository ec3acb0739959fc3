"""From a model on the hub (or a folder) to a bundle; the same as `avatarmod export`.

Run: .venv/bin/python scripts/export_onnx.py --help
"""

from worker.model.export.command import export

if __name__ == "__main__":
    export()
