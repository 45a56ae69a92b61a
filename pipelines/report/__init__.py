"""`tracemill report`: what is in a version, what was thrown away and why, as one page that opens from disk.

version ──facts.py, funnel.py──▶ numbers ──sections.py──▶ blocks: charts, tables, examples ──page.py──▶ one HTML file
                                                            └──cards.py──▶ pictures/*.svg of the version's own card
"""
