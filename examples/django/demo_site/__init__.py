"""The least of a site around the app."""
