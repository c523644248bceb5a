"""Does choosing pay: gains of selection over random rows at equal queries and at equal total cost."""
