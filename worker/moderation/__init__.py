"""Scores to verdicts, for up to 32 uploads at a time."""
