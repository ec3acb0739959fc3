"""The `avatarmod` subcommands that need the worker; imported only when one is used."""
