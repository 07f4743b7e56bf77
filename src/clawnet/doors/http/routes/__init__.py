"""The routes, one file for each noun. A route reads the request, asks the hub, gives an answer."""
