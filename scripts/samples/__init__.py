"""The grammars behind the bundled samples: one module for each family of tasks."""
