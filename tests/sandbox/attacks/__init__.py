"""Tables of attacks, by theme."""
