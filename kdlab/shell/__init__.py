"""The shell that commands are typed in: completion."""
