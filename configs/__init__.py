"""The YAML of Trivium: groups that mirror constructors, and experiments."""
