"""Champion and challenger: challenges on the test split, their history, and batch prediction."""
