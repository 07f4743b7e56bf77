"""The door for Centrifugo's clients and backends, and the proxies that a real Centrifugo asks."""
