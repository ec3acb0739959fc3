"""Measurements that a user can run; see the Makefile."""
