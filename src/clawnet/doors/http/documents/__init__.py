"""The documents a hub serves about itself, made from the code and with its own URL filled in.

Each is built once, lazily and off the loop, with a placeholder in the URL's place
(`shelf.py`); nothing in them depends on who asks or on what the hub holds.
"""
