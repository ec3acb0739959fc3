"""The HTTP API and the console on a real Valkey and, where it matters, real workers."""
