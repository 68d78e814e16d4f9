"""The server: predictions over HTTP, jobs that survive a restart, and a page for people."""
