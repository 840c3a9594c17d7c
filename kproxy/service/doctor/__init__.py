"""``kproxy doctor``: walks from a client's side through the proxy to each broker, and says what is wrong.

Each step is a Finding: ok, skip (not looked at, and why), warn or fail, with a remedy where there is something to do.
``findings`` says what one is, ``judge`` decides about answers without any I/O, ``client`` speaks to the proxy, with the
PROXY header of ``header`` where one is due, ``door`` tells who is behind a port that does not answer as it should,
``visit`` walks one address, ``scratch`` sends a record there and back, ``walk`` puts it all together::

    fail  login     a login is asked for: PLAIN, SCRAM-SHA-512
                    -> give --username and --password-file; clients: security.protocol=SASL_PLAINTEXT

Never here: a change to the cluster. Nothing is created or deleted; a record is written to a topic that was named for it
and to no other. FindCoordinator is asked only where its internal topic exists, as a broker would make it. A refused
login is not tried again. No password in any finding. Every wait is bounded, and all of them together.
"""
