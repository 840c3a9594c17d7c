"""The benchmarks of kproxy: what a request, a connection and a client cost, beside HAProxy and beside no proxy at all.

``run.py`` is the command line; each module here is one idea: ``build`` (the C programs), ``programs`` (starting what
is measured), ``usage`` (CPU and memory of a process tree), ``load`` (one measured run), then one module per question:
``shapes``, ``idle``, ``latency``, ``clients``; ``report`` writes tables.
"""
