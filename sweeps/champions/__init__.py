"""Champion and challenger: registered models, comparisons on the test split, batch prediction."""
