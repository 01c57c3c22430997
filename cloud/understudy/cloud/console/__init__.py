"""The page an operator looks at, and its two buttons."""
