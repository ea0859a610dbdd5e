"""The checks that an answer passes, in order."""
