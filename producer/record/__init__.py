"""The record of every upload in Redis, and each step that changes it."""
