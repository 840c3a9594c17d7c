"""wire: bytes only. Frames, headers, the API table, find-and-splice of endpoints, routing keys, handshake messages.

Never here: a socket, a clock, a log line, a decision. A function reads or writes bytes and says what it found.
Record batches are never decoded.
"""
