"""What `avatarmod demo` shows: drawn pictures and a web tier that listens."""
