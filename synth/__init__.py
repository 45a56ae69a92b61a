"""How traces are made: one file per method, over one engine, in front of one journal."""
