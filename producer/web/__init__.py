"""The HTTP side: the API for web tiers and the console for people."""
