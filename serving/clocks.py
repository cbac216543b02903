"""How far the clocks of shops and machines may differ: one tolerance for whoever compares two of them."""

from datetime import timedelta

TOLERANCE = timedelta(hours=1)
"""What is further off is set aside and counted, never taken and never dropped in silence."""
