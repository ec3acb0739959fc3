"""Processes that `avatarmod up` starts and watches."""
