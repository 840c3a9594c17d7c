"""observe: looking in. Logs now; metrics and the request log with the operations work.

Never here: anything that costs the data path a call per frame.
"""
