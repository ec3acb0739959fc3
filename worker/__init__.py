"""Downstream of the queue: claim uploads, decode, score, decide, review, call back."""
