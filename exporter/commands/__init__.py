"""The subcommands, a module each: its `command` is what the command line calls."""
