"""`tracemill view REF`: a version in the browser, read-only and on this machine alone.

serve.py ──socket on 127.0.0.1, token──▶ app.py (routes) ──▶ security.py (who may ask, what a page may do)
                                          └▶ pages.py (what a page shows) ──▶ paging.py (rows by number, search)
"""
