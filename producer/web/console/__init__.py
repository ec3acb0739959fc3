"""The operators' console: server-rendered pages, one stylesheet, one script, no build step."""
