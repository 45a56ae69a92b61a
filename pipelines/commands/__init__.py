"""The command line's parts: what all commands share, and the commands themselves by what they are about."""
