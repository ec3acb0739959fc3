"""Every decision, durable, in SQL."""
