"""Pure decisions: names, rights, envelopes, limits. Nothing in this package does I/O."""
