"""What can stand between samples and policy: the built-in estimators, and those of others by entry point."""
