"""Things made from a finished run."""
