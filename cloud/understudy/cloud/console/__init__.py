"""The page an operator looks at, and its buttons: see `routes`."""
