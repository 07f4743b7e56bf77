"""One file for each command or noun; each is imported only when it is called."""
