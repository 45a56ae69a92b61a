"""What a recipe names, found and checked: plug-ins and their options, shipped recipes, resolved recipes as TOML."""
