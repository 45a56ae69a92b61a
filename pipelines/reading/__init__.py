"""From the places that a recipe names to problems: files, folders, the Hub and the store, row by row."""
