"""The functions that people call, one file per verb."""
