"""From a checkpoint to a bundle: `avatarmod export`."""
