"""Chromium and Firefox as witnesses: what they paint of a file must be what the decoder scores."""
