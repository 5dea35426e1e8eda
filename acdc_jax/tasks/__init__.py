"""Task families: their format, their scientist, their pool."""
