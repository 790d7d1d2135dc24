"""Everything that touches, guards or stands in for hardware; knows nothing of `loop`."""
