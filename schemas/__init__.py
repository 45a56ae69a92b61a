"""What things are: problems, traces, requests, recipes, errors, and the protocols that plug-ins are written against."""
