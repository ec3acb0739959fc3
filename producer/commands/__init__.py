"""Subcommands of the light side, one file each."""
