"""Ways to show a view."""
