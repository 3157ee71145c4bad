"""How a design is chosen."""
