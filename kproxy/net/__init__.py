"""net: the sockets. asyncio Protocols (on uvloop where it is there) around the machines of core.

Never here: a rule. One write per read; back-pressure both ways; every wait has an end.
"""
