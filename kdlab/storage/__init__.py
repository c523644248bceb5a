"""Files that are whole or absent: atomic I/O, tables, checkpoints, the artifact store, redaction of secrets."""
