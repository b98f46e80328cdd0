"""What users import: one module per verb."""
