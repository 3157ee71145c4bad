"""The backbone that petlas ships."""
