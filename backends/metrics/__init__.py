"""Task metrics: generated texts and the texts that they should be, turned into numbers."""
