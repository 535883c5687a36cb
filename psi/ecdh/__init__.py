"""The protocol by an oblivious function over ristretto255, and its two roles."""
