"""YAML configurations."""
