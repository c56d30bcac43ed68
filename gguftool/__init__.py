"""gguftool."""
