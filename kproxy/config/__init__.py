"""config: plain values. The models of the configuration file, and how it is loaded and checked.

Never here: a socket or a loop. A secret is held in a type that does not print.
"""
