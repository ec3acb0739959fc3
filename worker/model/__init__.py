"""Bundles, the engine that runs them, and what their scores mean.

ONNX Runtime is imported below this package only. Its wheels report the machine's id, system,
processor and the interpreter's path to their maker unless told not to before they are loaded.
Source: ONNX Runtime's docs/Privacy.md; the variable is in the strings of onnxruntime 1.32.0.
"""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
