"""Pictures: one drawing function per picture."""
