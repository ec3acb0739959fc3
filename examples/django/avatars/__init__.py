"""Avatars that are shown once they are approved."""
