"""A build while it runs: outcomes, the spool that keeps them, how far it is and how it is stopped."""
