"""The command `backfill`: see `command`. Nothing is imported here, since the command line reads the defaults."""
