"""Upstream of the queue: what a web tier needs to enqueue an upload and read its verdict.

Nothing here imports numpy, Pillow or onnxruntime, so an upload host stays small.
"""
