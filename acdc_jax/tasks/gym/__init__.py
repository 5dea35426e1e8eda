"""Tasks from reasoning-gym, an optional package of procedural task families with levels."""
