"""The console in a real browser, on a real instance with real workers."""
