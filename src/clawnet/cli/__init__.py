"""The command line `claw`: commands parse, call the client or the app, and print."""
