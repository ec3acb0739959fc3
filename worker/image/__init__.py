"""Hostile bytes to what people would see of them, in a child process."""
