"""Typed requests and answers, one noun per file.

A door turns bytes into one of these and calls the hub; the feature that owns
the noun registered the handler. They are also the source of the HTTP API's
schema. Unknown members are refused at the door, so a typo is never ignored.
"""
