"""What a good row is: one file per filter, each a function from keyword options to a polars expression."""
