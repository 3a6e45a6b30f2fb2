"""The report of an evaluation: one HTML file that asks for nothing from elsewhere."""
