"""cli: the face. One file per command; every error that a user can cause is one line: what, where, what to do."""
