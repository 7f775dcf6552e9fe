"""`relay doctor`: what is wrong with this box or its ways to registry and store, and the command that mends it."""
