"""The functions that users import: one module per verb."""
