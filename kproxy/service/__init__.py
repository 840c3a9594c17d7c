"""service: the live whole. The supervisor, its workers, start, drain and stop.

Never here: bytes of the protocol.
"""
