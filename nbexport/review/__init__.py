"""Review of interface changes: what differs on the wire, and which rules it breaks.

One module a stage: ``facts`` finds the differences of two schemas, ``rules`` judges them,
``engine`` runs the rules, ``finding`` is what comes out.
"""
