"""The HTTP door: REST, SSE and the shell routes. Translates, and decides nothing.

`app.build_app` makes the ASGI app. The hot routes (publish) are answered by
`publishing` in front of the router; every other route is a function in
`routes`, one file for each noun.
"""
