"""Adapters that yield chunks and markers, and do no mathematics."""
