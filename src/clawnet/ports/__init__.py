"""What the hub needs from the world below it: small protocols with numbered promises."""
