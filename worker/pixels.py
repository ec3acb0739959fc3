"""How a picture becomes a model's pixels: the input rule of a bundle, as data and as one function.

Imported by the decoding child process, so it needs Pillow and numpy but not onnxruntime.
"""
