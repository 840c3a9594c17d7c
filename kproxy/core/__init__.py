"""core: the rules, sans-IO. What is forwarded, answered, rewritten, routed, refused and counted.

Never here: a socket, a clock, a log line, a loop. ``receive(data)`` takes bytes and returns bytes; rare orders to the
shell are left in ``actions``. So every rule is tested with plain bytes, whole, byte by byte and at random cuts.
"""
