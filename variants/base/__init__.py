"""Public building blocks of variants, for the variants of this package and of others."""
