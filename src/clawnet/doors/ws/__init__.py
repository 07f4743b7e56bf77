"""The native WebSocket door: `/api/v1/events/stream`, one JSON message for each frame.

handshake   the upgrade request, checked and answered
frames      bytes to messages and back (RFC 6455)
commands    messages to typed commands
answers     what the server says, as frames
connection  one client: commands in, answers and events out, in order
door        what all connections share
"""
