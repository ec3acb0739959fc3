"""The `avatarmod` subcommands that need no worker; imported only when one is used."""
