"""From a model's weights to a bundle; needs `avatar-moderation[export-light]`."""
