"""Every operation in the fewest obvious lines of NumPy, Fraction and Python integers: the oracle."""
